"""The main job on two CPU cores: base, SFT and DPO on all five kinds of task, with the embedded model.

  medjax study --config=configs/study/demo.py --workdir=runs/demo
  medjax study --config=configs/study/demo.py --config.study.tasks=triage --workdir=runs/demo-triage
  medjax study --config=configs/study/demo.py:full --workdir=runs/demo-full

One candidate a method: learning rates were found on validation rows beforehand, within these budgets. The test rows
are read once. Ends with the table of results and leaves study.json, report.md and report.html in the workdir; stop it
when you like, the same command goes on.

The quick size trains SFT on 100 to 240 examples and DPO on 24 pairs, once each, and tests on 60 to 75 rows: under 20
minutes for all five tasks. That is enough to see the road work and a first gain over the base model, not to see what
either method can do: the baselines in the report stay ahead of it on most tasks. The full size adds the laboratory
thresholds, trains two and a half times as long and takes up to an hour.
"""

from medjax.config import base_config
from medjax.errors import UserError

# Task -> row length that holds two of its examples, SFT steps of four examples, and the SFT learning rate.
_TASKS = {
  "text_classification": (304, 40, 1e-4),
  "numeric_classification": (160, 60, 2e-4),
  "clinical_reasoning": (352, 28, 2e-4),
  "summarization": (384, 24, 2e-4),
  "triage": (224, 50, 1e-4),
}
_MORE_TASKS = {"laboratory_thresholds": (320, 40, 2e-4)}
_TEST_ROWS = {"quick": 64, "full": 120}
_LONGER = {"quick": 1.0, "full": 2.5}
_PAIRS = {"quick": 24, "full": 80}


def get_config(size="quick"):
  if size not in _LONGER:
    raise UserError(f"size is {size!r}; it must be quick or full")
  chosen = _TASKS if size == "quick" else {**_TASKS, **_MORE_TASKS}
  config = base_config()
  config.data.validation_rows = 60
  config.data.test_rows = _TEST_ROWS[size]
  config.train.batch_size = 4
  config.train.microbatch_rows = 2
  config.optimizer.warmup_steps = 5
  config.evaluation.batch_size = 2
  config.study.tasks = tuple(chosen)
  config.study.grid = {}
  for task, (row_length, steps, rate) in chosen.items():
    sft = {"train.steps": round(steps * _LONGER[size]), "optimizer.learning_rate": rate}
    dpo = {"data.train_rows": _PAIRS[size], "optimizer.learning_rate": 2e-6}
    config.study.grid[f"{task}/sft"] = ({**sft, "train.row_length": row_length},)
    config.study.grid[f"{task}/dpo"] = ({**dpo, "train.row_length": row_length},)
  return config
