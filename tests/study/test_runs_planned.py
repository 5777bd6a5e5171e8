"""Plans of studies: rungs, equal budgets, order, shares of devices; and the ledger of looks."""

import dataclasses
import json

import pytest

from medjax import config as schema
from medjax import tasks
from medjax.errors import UserError
from medjax.study import at_hand, looks, plan, protocol, stages


def config(**changes):
  settings = {"study.tasks": ("triage",), "data.train_rows": 20, "data.validation_rows": 5, "data.test_rows": 5}
  return schema.with_overrides(
    schema.base_config(), settings | {key.replace("__", "."): value for key, value in changes.items()}
  )


@pytest.mark.parametrize(
  ("candidates", "halving", "wanted"),
  [
    (4, 0, [(4, 1.0)]),
    (1, 3, [(1, 1.0)]),
    (2, 3, [(2, 1.0)]),
    (4, 2, [(4, 0.25), (2, 0.5), (1, 1.0)]),
    (9, 3, [(9, 1 / 9), (3, 1 / 3), (1, 1.0)]),
    (7, 3, [(7, 1 / 3), (2, 1.0)]),
  ],
)
def test_rungs_of_successive_halving(candidates, halving, wanted):
  found = [(rung.candidates, rung.share) for rung in plan.rungs(candidates, halving)]
  assert found == [(count, pytest.approx(share)) for count, share in wanted]


def test_a_method_comes_behind_the_one_that_it_starts_from():
  groups = plan.plan(config(study__methods=("dpo", "simpo", "base", "sft"), study__seeds=(0, 1)))
  first = [group.key[2] for group in groups[:4]]
  assert first.index("sft") < min(first.index("dpo"), first.index("simpo"))
  after = {group.key: group.after for group in groups}
  assert after["triage", 1, "dpo"] == ("triage", 1, "sft") and after["triage", 0, "sft"] is None
  assert after["triage", 1, "base"] == ("triage", 0, "base") and after["triage", 0, "base"] is None
  alone = plan.plan(config(study__methods=("dpo", "base")))
  assert all(group.after is None for group in alone), "without sft it starts from the model"


@pytest.mark.parametrize("halving", [0, 2])
def test_a_budget_gives_each_method_as_many_tokens(halving):
  grid = {
    "sft": ({"train.steps": 40}, {"train.steps": 80}),
    "dpo": ({"train.steps": 20, "optimizer.warmup_steps": 20}, {"train.steps": 20}),
  }
  wanted = config(study__methods=("sft", "dpo"), study__grid=grid)
  before = stages.stages(wanted, plan.plan(wanted), plan.Options(halving=halving))
  assert "sft 2 settings" in protocol.unequal(before, 1)[1]
  options = plan.Options(halving=halving, budget=50_000)
  groups = plan.plan(wanted, options)
  found = stages.stages(wanted, groups, options)
  for method in ("sft", "dpo"):
    tokens = sum(stage.tokens for stage in found if stage.group[2] == method)
    assert tokens == pytest.approx(50_000, rel=0.06)
  assert protocol.unequal(found, 1) == []
  short, long = (dict(run.overrides)["train.steps"] for run in groups[0].runs)
  assert long == pytest.approx(2 * short, abs=1), "steps keep their proportions"
  for run in groups[1].runs:
    plan.run_config(wanted, run, "")  # warm-up is no longer than the steps
  with pytest.raises(UserError, match="--budget is 10; triage with sft needs [0-9]+ for one step each"):
    plan.plan(wanted, plan.Options(budget=10))


def test_where_there_is_a_choice_there_must_be_validation_rows(monkeypatch):
  triage = tasks.get("triage")
  without = dataclasses.replace(triage, load=lambda: {**triage.load(), "validation": []})
  monkeypatch.setitem(tasks.task._TASKS, "triage", without)
  stages.stages(config(), plan.plan(config()))
  wanted = config(study__grid={"sft": ({"train.steps": 10}, {"train.steps": 20})})
  with pytest.raises(UserError, match="task triage has no validation rows, which a study needs"):
    stages.stages(wanted, plan.plan(wanted))


def test_estimates_grow_with_the_model_and_shrink_with_the_device():
  (stage, *_) = stages.stages(config(), plan.plan(config()))
  slow, fast = stages.token_seconds(10**9, 1e11), stages.token_seconds(10**9, 1e13)
  assert slow == pytest.approx(100 * fast)
  assert stages.expected(stage, slow) > stages.expected(stage, fast)


def test_cores_and_accelerators_are_shared_out():
  assert [list(share.cores) for share in at_hand.of_cores(range(5), 2)] == [[0, 1], [2, 3, 4]]
  assert at_hand.of_cores(range(4), 1) == [at_hand.Share()]
  with pytest.raises(UserError, match="--parallel is 3; this machine lends 2 cores"):
    at_hand.of_cores(range(2), 3)


def test_gpus_are_those_that_are_visible(monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,GPU-a,7")
  found = [share.environment for share in at_hand.of_accelerators("gpu", 4, 2)]
  assert found == [{"CUDA_VISIBLE_DEVICES": "3,5"}, {"CUDA_VISIBLE_DEVICES": "GPU-a,7"}]
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
  assert at_hand.of_accelerators("gpu", 2, 2)[1].environment == {"CUDA_VISIBLE_DEVICES": "1"}
  with pytest.raises(UserError, match="--parallel is 3; 4 devices .* can be shared by 1, 2, 4"):
    at_hand.of_accelerators("gpu", 4, 3)


def test_tpu_chips_come_with_their_bounds():
  found = at_hand.of_accelerators("tpu", 8, 2)[1].environment
  assert found == {
    "TPU_VISIBLE_CHIPS": "4,5,6,7",
    "TPU_CHIPS_PER_PROCESS_BOUNDS": "2,2,1",
    "TPU_PROCESS_BOUNDS": "1,1,1",
  }


def look(method="sft", checkpoint="one", **changes):
  return looks.Look("triage", 0, method, 0, checkpoint, **changes)


def test_a_look_is_taken_once(tmp_path):
  for taken in (look(), look("dpo"), look()):
    looks.record(tmp_path, taken)
  assert looks.read(tmp_path) == [look(), look("dpo")] and looks.second(looks.read(tmp_path)) == []
  with pytest.raises(UserError, match="--allow_second_look"):
    looks.record(tmp_path, look(checkpoint="other"))
  looks.record(tmp_path, look(checkpoint="other", by="eval"), allow=True)
  assert looks.second(looks.read(tmp_path)) == [look(checkpoint="other", by="eval")]


def test_a_changed_ledger_is_refused_and_a_line_cut_off_by_a_crash_is_dropped(tmp_path):
  for method in ("base", "sft", "dpo"):
    looks.record(tmp_path, look(method))
  ledger = tmp_path / looks.FILE
  whole = ledger.read_text()
  ledger.write_bytes(whole.encode() + whole[:40].encode() + b"\xff")
  looks.record(tmp_path, look("kto"))
  assert [one.method for one in looks.read(tmp_path)] == ["base", "sft", "dpo", "kto"]
  first, second, third = whole.splitlines(keepends=True)
  changed = json.dumps({**json.loads(second), "checkpoint": "two"}) + "\n"
  for broken in (first + third, first + changed + third, second + third, first + "\udcff\n" + third):
    ledger.write_text(broken, errors="surrogateescape")
    with pytest.raises(UserError, match="line [12] was changed"):
      looks.read(tmp_path)


@pytest.mark.parametrize(
  "harm",
  [
    lambda ledger, head: ledger.write_text("".join(ledger.read_text().splitlines(True)[:2])),
    lambda ledger, head: ledger.unlink(),
    lambda ledger, head: head.unlink(),
    lambda ledger, head: head.write_text("{"),
    lambda ledger, head: head.write_text(head.read_text().replace("3", "2")),
  ],
  ids=["last line", "ledger", "head", "garbled head", "changed head"],
)
def test_a_ledger_that_lacks_its_last_line_is_refused(tmp_path, harm):
  for method in ("base", "sft", "dpo"):
    looks.record(tmp_path, look(method))
  harm(tmp_path / looks.FILE, tmp_path / looks.HEAD)
  with pytest.raises(UserError, match="looks.jsonl and looks.head.json beside it do not fit: .* put both back"):
    looks.record(tmp_path, look("dpo", checkpoint="other"))


def test_a_crash_between_a_line_and_its_head_is_no_damage(tmp_path):
  looks.record(tmp_path, look("base"))
  before = (tmp_path / looks.HEAD).read_text()
  looks.record(tmp_path, look("sft"))
  (tmp_path / looks.HEAD).write_text(before)
  looks.record(tmp_path, look("dpo"))
  assert [one.method for one in looks.read(tmp_path)] == ["base", "sft", "dpo"]
