"""A stage of training: what it writes, how it goes on after any interruption, what it refuses, when it stops."""

import json
import os
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soak
import tiny
from runs import curve, lines, overrides, train

import medjax
from medjax.data.examples import Segments
from medjax.data.loader import Plan
from medjax.errors import RunError, Stopped, UserError
from medjax.models.pretrained import load_pretrained
from medjax.training import checkpoints, loop, reference
from medjax.training.recorder import tolerance_in_nats
from medjax.training.telemetry import Telemetry


class Crash(Exception):
  """Stands for a process that ends without a word."""


def crash_at(step, monkeypatch):
  """Makes the run end after `step` was written down."""
  write = Telemetry.write

  def writing(self, done, values):
    write(self, done, values)
    if done == step:
      raise Crash

  monkeypatch.setattr(Telemetry, "write", writing)


def test_a_run_and_what_it_writes(home, tmp_path):
  settings = overrides(home, train__steps=12)
  result = train(tmp_path / "run", settings)
  seen = lines(tmp_path / "run")
  assert [line["step"] for line in seen] == list(range(1, 13))
  assert seen[-1]["loss"] < 0.7 * seen[0]["loss"]
  for line in seen:
    assert {"loss", "grad_norm", "learning_rate", "tokens", "tokens_per_second", "padded_share"} <= set(line)
    assert 0 < line["padded_share"] < 1 and line["tokens"] > 0 and line["grad_norm"] > 0
  assert (result.steps, result.tokens) == (12, sum(line["tokens"] for line in seen))
  assert result.metrics["loss"] == seen[-1]["loss"]
  written = json.loads((tmp_path / "run" / "config.json").read_text())
  assert written["optimizer"]["learning_rate"] == 0.01
  assert list((tmp_path / "run").glob("events.out.tfevents.*"))

  def times():
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != "lock"]
    return {path: path.stat().st_mtime_ns for path in files}

  before = times()
  again = train(tmp_path / "run", settings)
  assert (again.steps, again.tokens) == (12, 0), "a finished run has nothing to do"
  assert times() == before


@pytest.mark.parametrize(("method", "reference_from"), soak.some([("dpo", "live"), ("sft", "precomputed")], 1))
def test_a_crash_leaves_no_trace_in_the_curve(home, tmp_path, monkeypatch, method, reference_from):
  settings = overrides(home, method, train__steps=7, preference__reference=reference_from)
  train(tmp_path / "whole", settings)
  for crash in (2, 5):  # before the first checkpoint, and after it
    with monkeypatch.context() as patch, pytest.raises(Crash):
      crash_at(crash, patch)
      train(tmp_path / "broken", settings | {"checkpoint.every": 3})
    assert lines(tmp_path / "broken")[-1]["step"] == crash
  assert train(tmp_path / "broken", settings).steps == 7
  assert curve(tmp_path / "broken") == curve(tmp_path / "whole")
  ended = [checkpoints.load_params(str(tmp_path / name))[0] for name in ("whole", "broken")]
  assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, ended), strict=True))


def test_sigterm_saves_and_stops(home, tmp_path, monkeypatch):
  settings = overrides(home, train__steps=9)
  train(tmp_path / "whole", settings)
  write = Telemetry.write

  def writing(self, done, values):
    write(self, done, values)
    if done == 4:
      os.kill(os.getpid(), signal.SIGTERM)

  before = signal.getsignal(signal.SIGTERM)
  with monkeypatch.context() as patch, pytest.raises(Stopped, match=r"stopped at step \d of 9 with a checkpoint saved"):
    patch.setattr(Telemetry, "write", writing)
    train(tmp_path / "run", settings)
  assert signal.getsignal(signal.SIGTERM) is before
  stopped = len(lines(tmp_path / "run"))
  assert 4 < stopped < 9
  assert train(tmp_path / "run", settings).steps == 9
  assert curve(tmp_path / "run") == curve(tmp_path / "whole")


@pytest.mark.parametrize(
  ("place", "message"), soak.some([("reference", "before step 1 of 4"), ("validation", "at step 2 of 4")], 1)
)
def test_sigterm_outside_of_steps(home, tmp_path, monkeypatch, place, message):
  settings = overrides(home, "dpo", train__steps=4, evaluation__every=2)
  train(tmp_path / "whole", settings)
  (tmp_path / "cache").rename(tmp_path / "old")
  module = {"reference": reference, "validation": loop}[place]
  score = module.score

  def scoring(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    return score(*arguments)

  with monkeypatch.context() as patch, pytest.raises(Stopped, match=message):
    patch.setattr(module, "score", scoring)
    train(tmp_path / "run", settings)
  assert train(tmp_path / "run", settings).steps == 4
  assert curve(tmp_path / "run") == curve(tmp_path / "whole")


def test_a_step_finds_its_batch_placed_and_never_waits_for_metrics(home, tmp_path, monkeypatch):
  events = []
  place, jitted_step, write = loop.mesh.place, loop.jitted_step, Telemetry.write

  def placing(arrays, shardings):
    events.append("place")
    return place(arrays, shardings)

  def stepping(*arguments):
    step_fn = jitted_step(*arguments)

    def step(*inputs):
      events.append("step")
      with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        jnp.asarray(1.0) + 1.0  # a transfer that nobody asked for
      return step_fn(*inputs)

    return step

  monkeypatch.setattr(loop.mesh, "place", placing)
  monkeypatch.setattr(loop, "jitted_step", stepping)
  monkeypatch.setattr(Telemetry, "write", lambda *arguments: (events.append("metrics"), write(*arguments)))
  train(tmp_path / "run", overrides(home, train__steps=4))
  first, last = ["place", "place", "step"], ["step", "metrics", "metrics"]
  assert events == [*first, "place", "step", "metrics", "place", "step", "metrics", *last]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"optimizer.learning_rate": 0.02}, "config.optimizer.learning_rate: 0.01 -> 0.02"),
    ({"seed": 1}, "config.seed: 0 -> 1"),
    ({"train.steps": 7}, "config.train.steps: 6 -> 7"),
    ({"data.train_rows": 15}, "config.data.train_rows: 0 -> 15"),
  ],
)
def test_another_config_is_refused(home, tmp_path_factory, change, message):
  workdir = tmp_path_factory.getbasetemp() / "finished"
  train(workdir, overrides(home))
  with pytest.raises(UserError, match=message):
    train(workdir, overrides(home) | change)
  train(workdir, overrides(home) | {"checkpoint.every": 2, "evaluation.every": 3})


def test_other_rows_are_refused(home, tmp_path, monkeypatch):
  rows = (home / "sft.jsonl").read_text()
  source = tmp_path / "rows.jsonl"
  source.write_text(rows)
  settings = overrides(home, data__source=str(source), checkpoint__every=2)
  with monkeypatch.context() as patch, pytest.raises(Crash):
    crash_at(4, patch)
    train(tmp_path / "run", settings)
  source.write_text(rows.replace("not low", "not  low", 1))
  with pytest.raises(UserError, match=r"holds another run \(data: '\w+' -> '\w+'\); use another --workdir"):
    train(tmp_path / "run", settings)


def test_other_weights_under_the_same_path_are_refused(home, tmp_path, monkeypatch):
  model = tmp_path / "model"
  tiny.write_model(model)
  settings = overrides(home, checkpoint__every=2) | {"model.path": str(model)}
  with monkeypatch.context() as patch, pytest.raises(Crash):
    crash_at(4, patch)
    train(tmp_path / "run", settings)
  tiny.write_model(model, seed=1)
  with pytest.raises(UserError, match=r"holds another run \(weights: '\w+' -> '\w+'\); use another --workdir"):
    train(tmp_path / "run", settings)


def mean_nll(path, home):
  """Nats a token of the train rows under a model or checkpoint."""
  rows = [json.loads(line) for line in (home / "sft.jsonl").read_text().splitlines()]
  rows = [row for row in rows if row["split"] == "train"]
  logps = medjax.load(str(path)).logp([row["prompt"] for row in rows], [row["completion"] for row in rows])
  return -logps.sum() / sum(len(row["completion"]) + 1 for row in rows)


def test_init_from_starts_where_the_other_run_ended(home, tmp_path):
  train(tmp_path / "first", overrides(home))
  everything = overrides(home, train__init_from=str(tmp_path / "first"), train__batch_size=16, train__steps=2)
  train(tmp_path / "second", everything)
  start = lines(tmp_path / "second")[0]["loss"]
  assert start == pytest.approx(mean_nll(tmp_path / "first", home), rel=1e-4)
  assert start < 0.9 * mean_nll(home / "model", home)

  # Where the first run is replaced by another one, the second cannot go on from it.
  train(tmp_path / "other", overrides(home, seed=1))
  with pytest.raises(UserError, match="config.train.init_from"):
    train(tmp_path / "second", everything | {"train.init_from": str(tmp_path / "other")})


def test_a_dpo_run_does_not_go_on_with_another_reference(home, tmp_path, monkeypatch):
  """The checkpoint under the same path is of another run now."""
  train(tmp_path / "sft", overrides(home, train__steps=2))
  settings = overrides(home, "dpo", train__init_from=str(tmp_path / "sft"), checkpoint__every=2)
  with monkeypatch.context() as patch, pytest.raises(Crash):
    crash_at(4, patch)
    train(tmp_path / "dpo", settings)
  (tmp_path / "sft").rename(tmp_path / "old")
  train(tmp_path / "sft", overrides(home, train__steps=3))
  with pytest.raises(UserError, match="init_from.config.train.steps: 2 -> 3"):
    train(tmp_path / "dpo", settings)


def test_init_from_another_model_is_refused(home, tmp_path):
  train(tmp_path / "first", overrides(home, train__steps=1, optimizer__warmup_steps=0))
  tiny.write_model(tmp_path / "larger", num_hidden_layers=3)
  with pytest.raises(UserError, match=r"is of another model \(model.num_layers: 2 -> 3\); set model.path to .*model"):
    train(
      tmp_path / "second",
      overrides(home, train__init_from=str(tmp_path / "first")) | {"model.path": str(tmp_path / "larger")},
    )
  with pytest.raises(UserError, match="holds no whole checkpoint"):
    train(tmp_path / "third", overrides(home, train__init_from=str(tmp_path / "nothing")))


def test_dpo_starts_at_ln_2_and_reads_its_reference_once(home, tmp_path, cache, monkeypatch):
  settings = overrides(home, "dpo", preference__beta=0.5, train__batch_size=16, optimizer__learning_rate=0.002)
  train(tmp_path / "one", settings)
  (path,) = (cache / "reference").glob("*.npy")
  first = lines(tmp_path / "one")[0]
  assert first["loss"] == pytest.approx(np.log(2), abs=1e-4)
  assert first["rewards/chosen"] == pytest.approx(0, abs=1e-4)
  last = lines(tmp_path / "one")[-1]
  assert last["rewards/margin"] > 0.1 and last["loss"] < 0.6 and 0 <= last["rewards/accuracy"] <= 1

  train(tmp_path / "live", settings | {"preference.reference": "live"})
  for one, other in zip(lines(tmp_path / "one"), lines(tmp_path / "live"), strict=True):
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)

  monkeypatch.setattr(reference, "score", None)  # cannot be called
  train(tmp_path / "two", settings | {"optimizer.learning_rate": 0.02})
  assert list((cache / "reference").glob("*.npy")) == [path]
  with pytest.raises(TypeError):
    train(tmp_path / "three", settings | {"data.train_rows": 15})


@pytest.mark.parametrize(
  ("dtype", "shift"), [("float32", (0.02, 0.02)), ("float32", (1.0, -1.0)), ("bfloat16", (2.0, -2.0))]
)
def test_a_reference_of_other_weights_is_noticed(home, tmp_path, cache, dtype, shift):
  settings = overrides(home, "dpo", train__steps=1, optimizer__warmup_steps=0, model__dtype=dtype)
  train(tmp_path / "one", settings)
  (path,) = (cache / "reference").glob("*.npy")
  reference._write(path, path.stem, np.load(path) + np.array(shift, np.float32))
  with pytest.raises(RunError, match="step 1: .* the reference log-probabilities are of other weights"):
    train(tmp_path / "two", settings)
  assert not checkpoints.is_checkpoint(str(tmp_path / "two"))


def test_bfloat16_passes_the_first_step_check(home, tmp_path):
  """A batch of one pair, too, whose own noise nothing averages out."""
  for size in (8, 1):
    settings = overrides(home, "dpo", train__steps=2, model__dtype="bfloat16", train__batch_size=size)
    train(tmp_path / f"run{size}", settings)
    assert lines(tmp_path / f"run{size}")[0]["loss"] == pytest.approx(np.log(2), abs=0.02)


def test_a_run_does_not_go_on_where_auto_is_another_dtype(home, tmp_path, monkeypatch):
  settings = overrides(home, train__steps=1, optimizer__warmup_steps=0)
  train(tmp_path / "run", settings)
  monkeypatch.setattr(loop.mesh.jax, "devices", lambda: [types.SimpleNamespace(platform="tpu")])
  assert [loop.mesh.compute_dtype(name) for name in ("auto", "float32")] == ["bfloat16", "float32"]
  monkeypatch.undo()
  monkeypatch.setattr(loop.mesh, "compute_dtype", lambda name: "bfloat16")
  with pytest.raises(UserError, match="config.model.dtype: 'float32' -> 'bfloat16'.*set these back"):
    train(tmp_path / "run", settings)


def test_the_tolerance_of_the_first_step_follows_from_tokens_and_pairs():
  def tolerance(tokens, pairs, dtype):
    groups = [Segments(f"{at}", (1, 2), ((3,) * tokens, (4,) * tokens)) for at in range(pairs)]
    plan = Plan(groups, 1, 0, pairs, 2 * tokens + 8, 0, 1)
    return tolerance_in_nats(dtype, next(iter(plan.iterate(0))))

  assert tolerance(100, 1, "bfloat16") == pytest.approx(0.6 * 10)
  assert tolerance(100, 4, "bfloat16") == pytest.approx(0.6 * 5)
  assert tolerance(4, 100, "bfloat16") == 0.5, "what all answers share"
  assert tolerance(100, 1, "float32") == 0.01


def test_cache_key_names_what_the_reference_depends_on(home):
  params = load_pretrained(str(home / "model")).params
  group = Segments("a", (1, 2, 3), ((4, 5), (6,)))
  about = {"model": "m", "dtype": "float32", "tokenizer": "t"}
  key = reference.cache_key(params, [group], 64, about)
  assert key == reference.cache_key(
    jax.tree.map(lambda x: x + 0, params), [Segments("b", *(group.prompt, group.completions))], 64, about
  )
  moved = params | {"final_norm": {"scale": params["final_norm"]["scale"].at[3].add(1e-6)}}
  swapped = params | {"final_norm": {"scale": params["final_norm"]["scale"].at[:2].set(np.array([1.5, 0.5]))}}
  turned = params | {"final_norm": {"scale": params["final_norm"]["scale"].at[:2].set(np.array([0.5, 1.5]))}}
  others = [
    reference.cache_key(moved, [group], 64, about),
    reference.cache_key(swapped, [group], 64, about),
    reference.cache_key(turned, [group], 64, about),
    reference.cache_key(params, [Segments("a", (1, 2, 4), ((4, 5), (6,)))], 64, about),
    reference.cache_key(params, [Segments("a", (1, 2, 3, 4), ((5,), (6,)))], 64, about),
    reference.cache_key(params, [group, group], 64, about),
    reference.cache_key(params, [group], 32, about),
    *(reference.cache_key(params, [group], 64, about | {name: "other"}) for name in about),
  ]
  assert len({key, *others}) == len(others) + 1


def test_a_run_keys_its_reference_by_kernel_and_dtype_as_they_are_resolved(home, tmp_path, monkeypatch):
  seen = []

  def refuse(params, groups, row_length, described):
    seen.append(described)
    raise UserError("seen")

  monkeypatch.setattr(reference, "cache_key", refuse)
  with pytest.raises(UserError, match="seen"):
    train(tmp_path / "run", overrides(home, "dpo"))
  assert (seen[0]["attention"], seen[0]["dtype"]) == ("xla", "float32"), "not `auto`, which differs by device"


def test_a_loss_that_is_not_finite_stops_the_run(home, tmp_path):
  settings = overrides(home, optimizer__learning_rate=1e30, optimizer__warmup_steps=0, checkpoint__every=1)
  with pytest.raises(RunError, match=r"step 2: loss nan.*; 8 rows .*; lower optimizer.learning_rate"):
    train(tmp_path / "run", settings)
  assert [line["step"] for line in lines(tmp_path / "run")] == [1]
  assert checkpoints.load_identity(str(tmp_path / "run"))["step"] == 1, "a bad step is never saved"


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_validation_during_training(home, tmp_path, method):
  """Also with fewer rows at once than devices."""
  settings = overrides(home, method, evaluation__every=3, evaluation__batch_size=3)
  train(tmp_path / "run", settings)
  seen = lines(tmp_path / "run")
  assert [line["step"] for line in seen if "validation/loss" in line] == [3, 6]
  if method == "dpo":
    assert 0 <= seen[-1]["validation/rewards/accuracy"] <= 1
    assert seen[-1]["validation/loss"] != pytest.approx(np.log(2), abs=1e-3)
  else:
    rows = [json.loads(line) for line in (home / "sft.jsonl").read_text().splitlines()][16:]
    logps = medjax.load(str(tmp_path / "run")).logp([r["prompt"] for r in rows], [r["completion"] for r in rows])
    wanted = -logps.sum() / sum(len(row["completion"]) + 1 for row in rows)
    assert seen[-1]["validation/loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_run_learns_every_answer_of_a_conversation(home, tmp_path):
  """The loss of a step, and of validation, is the mean over the tokens of all answers, whatever rows they share."""
  draw = np.random.default_rng(0)
  with open(tmp_path / "talks.jsonl", "w") as file:
    for split in ["train"] * 4 + ["validation"] * 3:
      turns = [{"role": "user", "content": "Na?"}, {"role": "assistant", "content": "low" * draw.integers(1, 4)}]
      file.write(json.dumps({"split": split, "messages": turns * int(draw.integers(1, 4))}) + "\n")
  settings = overrides(home, data__source=str(tmp_path / "talks.jsonl"), train__row_length=256, evaluation__every=1)
  train(tmp_path / "run", settings | {"train.steps": 1, "train.batch_size": 4, "optimizer.warmup_steps": 0})
  (seen,) = lines(tmp_path / "run")
  rows = [json.loads(line) for line in (tmp_path / "talks.jsonl").read_text().splitlines()]
  for model, split, loss in (
    (home / "model", "train", seen["loss"]),
    (tmp_path / "run", "validation", seen["validation/loss"]),
  ):
    talks = [row["messages"] for row in rows if row["split"] == split]
    asked = [talk[:at] for talk in talks for at in range(1, len(talk), 2)]
    answers = [talk[at]["content"] for talk in talks for at in range(1, len(talk), 2)]
    assert len(answers) > len(talks)
    logps = medjax.load(str(model)).logp(asked, answers)
    assert loss == pytest.approx(-logps.sum() / sum(len(answer) + 1 for answer in answers), rel=1e-4)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"train.microbatch_rows": 3}, "train.microbatch_rows = 3 does not divide over the 2 devices"),
    ({"train.row_length": 20, "data.too_long": "error"}, "row case-0: .* prompt tokens"),
    ({"mesh.fsdp": 3}, "mesh.fsdp=3, .* does not divide 8 devices"),
    ({"mesh.tensor": 4, "mesh.fsdp": 2}, r"key-value heads \(2\) does not divide by mesh.tensor = 4"),
    ({"method": "base"}, "config.method is 'base'"),
  ],
)
def test_what_cannot_run_is_refused(home, tmp_path, change, message):
  with pytest.raises(UserError, match=message):
    train(tmp_path / "run", overrides(home) | change)
  assert not (tmp_path / "run" / "metrics.jsonl").exists()
