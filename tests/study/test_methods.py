"""Every method of a study in one, several seeds, candidates that fail, and second looks at the test rows."""

import dataclasses
import json
import shutil

import pytest
import tiny

from medjax import config as schema
from medjax import methods, tasks
from medjax.cli import main as cli
from medjax.data import chat
from medjax.data.examples import Row
from medjax.errors import RunError, UserError
from medjax.study import few_shot, figures, looks, methods_text, plan
from medjax.study import run as study_run
from medjax.tasks.task import Target, Task


def rows(first, count):
  return [
    Row(f"case-{index}", f"patient-{index}", {"value": 110 + index}, {"level": ("low", "high")[index % 3 > 0]})
    for index in range(first, first + count)
  ]


TASK = Task(
  name="sodium",
  description="for these tests",
  targets={"level": Target(("low", "high"), primary="accuracy")},
  instruction="Say it.",
  render=lambda fields: f"Na {fields['value']}",
  answer="{level}",
  rejections=lambda labels, fields, rng: [({"level": "low" if labels["level"] == "high" else "high"}, "test")],
  load=lambda: {"train": rows(0, 9), "validation": rows(20, 4), "test": rows(40, 10)},
)
FOLDER = "runs/sodium/seed{}/{}/candidate{}"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("study")
  tiny.write_model(folder / "model")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(tasks.task._TASKS, "sodium", TASK)
    patch.setenv("MEDJAX_CACHE", str(folder / "cache"))
    patch.setattr(figures, "curves", lambda *_: "")  # reports have tests of their own
    yield folder


def config(home, **changes):
  settings = {
    "model.path": str(home / "model"),
    "train.steps": 2,
    "train.batch_size": 2,
    "train.row_length": 128,
    "optimizer.warmup_steps": 0,
    "optimizer.learning_rate": 1e-3,
    "study.tasks": ("sodium",),
  }
  changed = schema.with_overrides(
    schema.base_config(), settings | {key.replace("__", "."): value for key, value in changes.items()}
  )
  schema.validate(changed)
  return changed


@pytest.fixture(scope="module")
def all_methods(home):
  wanted = config(home, study__methods=tuple(methods.METHODS), preference__label_smoothing=0.1, preference__loss="cdpo")
  return wanted, home / "all", study_run.study(wanted, home / "all", asked={"few_shot": 2})


def test_each_method_starts_where_it_says_and_has_its_own_loss(all_methods):
  _, workdir, study = all_methods
  found = {}
  for method in ("sft", "dpo", "dpo_from_base", "orpo", "simpo", "kto"):
    used = json.loads((workdir / FOLDER.format(0, method, 0) / "config.json").read_text())
    preference = used["preference"]
    start = used["train"]["init_from"].rpartition("seed0/")[2]
    found[method] = start, used["method"], *(preference[key] for key in ("loss", "beta", "label_smoothing"))
  assert found["sft"][:2] == ("", "sft")
  assert {method: values for method, values in found.items() if method != "sft"} == {
    "dpo": ("sft/candidate0", "dpo", "cdpo", 0.1, 0.1),
    "dpo_from_base": ("", "dpo", "cdpo", 0.1, 0.1),
    "orpo": ("", "dpo", "orpo", 0.1, 0.0),
    "simpo": ("sft/candidate0", "dpo", "simpo", 2.0, 0.0),
    "kto": ("sft/candidate0", "dpo", "kto", 0.1, 0.0),
  }
  assert study["protocol"]["starts"]["simpo"] == "starts from the chosen SFT run, loss simpo"
  assert study["protocol"]["starts"]["dpo_from_base"] == "starts from the model, which is its reference; loss cdpo"
  assert len(study["comparisons"]) == 8 * 7 // 2
  assert {row["method"] for row in study["training"]} == set(found)
  assert study["protocol"]["test_looks"] == 8


def test_few_shot_prompts_show_train_rows_with_their_answers(all_methods):
  _, workdir, study = all_methods
  (shown,) = study["protocol"]["few_shot"]
  assert shown["wanted"] == 2 and len(shown["rows"]) == 2 and set(shown["rows"]) <= {row.id for row in rows(0, 9)}
  assert (workdir / FOLDER.format(0, "few_shot", 0) / "eval/test/predictions.jsonl").exists()
  probabilities = {}
  for method in ("base", "few_shot"):
    lines = (workdir / FOLDER.format(0, method, 0) / "eval/test/predictions.jsonl").read_text().splitlines()
    probabilities[method] = [json.loads(line)["probabilities"] for line in lines]
  assert probabilities["base"] != probabilities["few_shot"]


def test_examples_that_do_not_fit_are_left_out(home):
  wanted = schema.with_overrides(config(home), {"task": "sodium"})
  encoder = chat.Encoder(tiny.tokenizer())
  (plain,) = encoder.prompts([TASK.prompt(rows(40, 1)[0])])
  turns = [
    len(encoder.prompts([dataclasses.replace(TASK, shots=shots).prompt(rows(40, 1)[0])])[0])
    for shots in [({"role": "user", "content": "Na 110"}, {"role": "assistant", "content": "high"})]
  ]
  of_one = turns[0] - len(plain)
  longest_answer = len("high") + 1
  for count, spare in ((3, 0), (2, -3)):
    limits = chat.Limits(max_length=len(plain) + longest_answer + 3 * of_one + spare)
    task, ids = few_shot.with_shots(wanted, TASK, 5, encoder, limits)
    assert len(ids) == count and len(task.shots) == 2 * count
    answers = {row.id: row.labels["level"] for row in rows(0, 9)}
    assert [turn["content"] for turn in task.shots[1::2]] == [answers[id_] for id_ in ids]
  other = schema.with_overrides(wanted, {"seed": 1})
  assert few_shot.with_shots(other, TASK, 5, encoder, chat.Limits())[1] != ids


def test_methods_that_train_nothing_are_tested_with_the_validation_prior(all_methods):
  wanted, workdir, study = all_methods
  found = {
    method: json.loads((workdir / FOLDER.format(0, method, 0) / "eval/test/metrics.json").read_text()).get("prior")
    for method in methods.METHODS
  }
  assert {method for method, prior in found.items() if prior} == {"base", "few_shot"}
  assert all(found[method]["mode"] == "validation" and found[method]["rows"] == 4 for method in ("base", "few_shot"))
  where = {"task": "sodium", "target": "level", "seed": 0}
  assert study["protocol"]["label_prior"] == {
    "mode": "validation",
    "methods": ["base", "few_shot"],
    "used": [
      {**where, "method": method, "used": found[method]["targets"]["level"]["used"]} for method in ("base", "few_shot")
    ],
  }
  used = sum(row["used"] for row in study["protocol"]["label_prior"]["used"])
  (design, *_), cited = methods_text.write(study)
  assert (
    "Label probabilities of base and few-shot, which train nothing, were divided by their mean over the validation "
    f"rows (after Zhou et al. 2024), where this made the primary metric better there, in {used} of 2 cases." in design
  )
  assert any("Batch calibration" in work for work in cited)
  with pytest.raises(UserError, match="another study .*prior: 'validation' -> 'batch'"):
    study_run.study(wanted, workdir, asked={"prior": "batch"})


def test_a_study_has_one_label_prior_from_its_start(home):
  wanted = config(home, study__methods=("base", "few_shot"), study__seeds=(0, 1))
  study = study_run.study(wanted, home / "batch", asked={"prior": "batch", "few_shot": 1})
  assert [(row["method"], row["seed"], row["used"]) for row in study["protocol"]["label_prior"]["used"]] == [
    ("base", 0, True),
    ("few_shot", 0, True),
    ("base", 1, True),
    ("few_shot", 1, True),
  ]
  metrics = json.loads((home / "batch" / FOLDER.format(1, "base", 0) / "eval/test/metrics.json").read_text())
  assert (metrics["prior"]["mode"], metrics["prior"]["rows"]) == ("batch", 10)
  shutil.rmtree(home / "batch" / FOLDER.format(0, "base", 0) / "eval")
  again = study_run.study(wanted, home / "batch")
  assert again["results"] == study["results"], "the next command need not name it"
  options = json.loads((home / "batch" / plan.OPTIONS).read_text())
  (home / "batch" / plan.OPTIONS).write_text(
    json.dumps({key: options[key] for key in options if key not in ("prior", "fingerprint")})
  )
  with pytest.raises(UserError, match="another study .*prior: None -> 'validation'"):
    study_run.study(wanted, home / "batch")
  with pytest.raises(UserError, match="--prior is read by methods that train nothing"):
    study_run.study(config(home, study__methods=("sft", "dpo")), home / "trained", asked={"prior": "batch"})


def test_what_a_label_prior_lacks_is_told_or_refused_at_once(home, monkeypatch):
  parts = {"train": rows(0, 9), "validation": [], "test": rows(40, 10)}
  monkeypatch.setitem(tasks.task._TASKS, "sodium", dataclasses.replace(TASK, load=lambda: parts))
  wanted = config(home, study__methods=("base", "few_shot"))
  study = study_run.study(wanted, home / "without")
  for row in study["protocol"]["label_prior"]["used"]:
    assert (row["used"], row["why"]) == (False, "the task has no validation rows")
  numbers = dataclasses.replace(TASK, render=lambda fields: f"Na {fields['value']:.1f}")
  monkeypatch.setitem(tasks.task._TASKS, "sodium", numbers)
  with pytest.raises(UserError, match="prompt of task sodium cannot be built without a row's values"):
    study_run.study(config(home, study__methods=("sft", "base")), home / "free", asked={"prior": "content_free"})
  assert not (home / "free/runs").exists(), "before anything is trained"


def test_a_second_look_needs_the_flag_and_is_listed(all_methods, capsys):
  wanted, workdir, study = all_methods
  dpo, orpo = (workdir / FOLDER.format(0, method, 0) for method in ("dpo", "orpo"))
  results = dpo / "eval/test"
  shutil.rmtree(results)
  study_run.study(wanted, workdir)
  assert (results / "metrics.json").exists(), "the same weights again are no new look"
  shutil.rmtree(results)
  shutil.rmtree(dpo / "checkpoints")
  shutil.copytree(orpo / "checkpoints", dpo / "checkpoints")
  shutil.copyfile(orpo / "metrics.jsonl", dpo / "metrics.jsonl")
  with pytest.raises(UserError, match="test rows of sodium were scored for dpo, seed 0, with other weights before"):
    study_run.study(wanted, workdir)
  assert not results.exists()
  again = study_run.study(wanted, workdir, allow_second_look=True)
  assert again["protocol"]["second_looks"] == [
    {"task": "sodium", "method": "dpo", "seed": 0, "candidate": 0, "by": "study"}
  ]
  assert study["protocol"]["second_looks"] == []
  assert study_run.study(wanted, workdir)["protocol"]["second_looks"] == again["protocol"]["second_looks"]
  flags = [
    "eval",
    f"--checkpoint={workdir / FOLDER.format(0, 'kto', 0)}",
    "--split=test",
    f"--workdir={workdir / 'eval'}",
  ]
  assert cli.main(flags) == 0, "the same weights as in the study"
  shutil.rmtree(workdir / FOLDER.format(0, "kto", 0) / "checkpoints")
  shutil.copytree(orpo / "checkpoints", workdir / FOLDER.format(0, "kto", 0) / "checkpoints")
  shutil.copyfile(orpo / "metrics.jsonl", workdir / FOLDER.format(0, "kto", 0) / "metrics.jsonl")
  assert cli.main(flags) == 2
  assert "scored for kto, seed 0, with other weights before" in capsys.readouterr().err
  assert cli.main([*flags, "--allow_second_look"]) == 0
  simpo = [flag.replace("kto", "simpo") for flag in flags]
  assert cli.main([*simpo, "--prior=batch"]) == 2
  assert "scored for simpo, seed 0, with other weights before, or another label prior" in capsys.readouterr().err
  assert cli.main([*simpo, "--stop=."]) == 2
  assert "with other weights before, or another label prior or stop string" in capsys.readouterr().err
  assert [(look.method, look.by) for look in looks.second(looks.read(workdir))] == [("dpo", "study"), ("kto", "eval")]
  (workdir / looks.FILE).unlink()
  with pytest.raises(UserError, match="looks.jsonl and looks.head.json beside it do not fit"):
    study_run.study(wanted, workdir)
  (workdir / looks.HEAD).unlink()
  with pytest.raises(UserError, match="looks.jsonl lacks the scoring of sodium, base, seed 0"):
    study_run.study(wanted, workdir)


def test_a_candidate_that_cannot_be_trained_is_not_chosen_and_the_model_is_scored_once_for_all_seeds(home):
  grid = {"sft": ({"optimizer.learning_rate": 1e30}, {"optimizer.learning_rate": 1e-3})}
  wanted = config(home, study__methods=("base", "few_shot", "sft"), study__grid=grid, study__seeds=(0, 1))
  study = study_run.study(wanted, home / "seeds")
  assert {(row["method"], row["seed"], row["candidate"]) for row in study["protocol"]["failed"]} == {
    ("sft", 0, 0),
    ("sft", 1, 0),
  }
  assert all("loss nan" in row["why"] or "loss inf" in row["why"] for row in study["protocol"]["failed"])
  assert {row["candidate"] for row in study["protocol"]["chosen"] if row["method"] == "sft"} == {1}
  taken = looks.read(home / "seeds")
  assert sorted((look.method, look.seed) for look in taken) == [
    ("base", 0),
    ("few_shot", 0),
    ("few_shot", 1),
    ("sft", 0),
    ("sft", 1),
  ]
  values = [row["value"] for row in study["results"] if row["method"] == "base" and row["primary"]]
  assert len(values) == 2 and values[0] == values[1]
  assert len({tuple(row["rows"]) for row in study["protocol"]["few_shot"]}) == 2


def test_what_does_not_need_a_failed_part_is_done_before_the_study_fails(home):
  grid = {"sft": ({"optimizer.learning_rate": 1e30},)}
  wanted = config(home, study__methods=("sft", "dpo", "dpo_from_base", "base"), study__grid=grid)
  with pytest.raises(RunError, match="2 of 4 parts of the study failed; .* sft, .* no candidate could be trained"):
    study_run.study(wanted, home / "failed")
  tested = sorted(path.parts[-5] for path in (home / "failed").glob("runs/*/*/*/*/eval/test/metrics.json"))
  assert tested == ["base", "dpo_from_base"]
