"""The main job on two CPU cores: base, SFT and DPO on all five kinds of task, with the embedded model.

  medjax study --config=configs/study/demo.py --workdir=runs/demo
  medjax study --config=configs/study/demo.py --config.study.tasks=triage --workdir=runs/demo-triage
  medjax study --config=configs/study/demo.py:full --workdir=runs/demo-full

One candidate a method, so validation rows choose nothing here but whether the base model's label prior is divided out
(`--prior`); the test rows are read once. Ends with the table of results and leaves study.json, report.md and
report.html in the workdir; stop it when you like, the same command goes on.

The quick size trains SFT on 80 to 252 examples and DPO on 16 pairs, once each, and tests on 60 rows: about 10 minutes
for all five tasks. That is enough to see the road work and a first gain over the base model, not to see what either
method can do: the baselines in the report stay ahead of it on most tasks. The full size adds the laboratory
thresholds, trains twice as long on twice the rows, and tests on 120.
"""

from medjax.config import base_config
from medjax.errors import UserError

# Task -> SFT: examples a step, steps, learning rate.
_TASKS = {
  "text_classification": (4, 26, 1e-4),
  "numeric_classification": (6, 42, 2e-4),
  "clinical_reasoning": (4, 24, 2e-4),
  "summarization": (4, 20, 2e-4),
  "triage": (6, 30, 2e-4),
}
_MORE_TASKS = {"laboratory_thresholds": (4, 40, 2e-4)}
_TEST_ROWS = {"quick": 60, "full": 120}
_LONGER = {"quick": 1, "full": 2}
_PAIRS = {"quick": 16, "full": 60}


def get_config(size="quick"):
  if size not in _LONGER:
    raise UserError(f"size is {size!r}; it must be quick or full")
  chosen = _TASKS if size == "quick" else {**_TASKS, **_MORE_TASKS}
  config = base_config()
  config.data.validation_rows = 60
  config.data.test_rows = _TEST_ROWS[size]
  config.train.batch_size = 4
  config.optimizer.warmup_steps = 5
  config.evaluation.batch_size = 2
  config.study.tasks = tuple(chosen)
  config.study.grid = {}
  for task, (batch, steps, rate) in chosen.items():
    sft = {"train.batch_size": batch, "train.steps": _LONGER[size] * steps}
    dpo = {"data.train_rows": _PAIRS[size], "optimizer.warmup_steps": 1}
    config.study.grid[f"{task}/sft"] = ({**sft, "optimizer.learning_rate": rate},)
    config.study.grid[f"{task}/dpo"] = ({**dpo, "optimizer.learning_rate": 5e-6},)
  return config
