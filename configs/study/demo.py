"""The main job on two CPU cores: base, SFT and DPO on both tasks, with the embedded model.

  medjax study --config=configs/study/demo.py --workdir=runs/demo
  medjax study --config=configs/study/demo.py --config.study.tasks=triage --workdir=runs/demo-triage

Hyperparameters are chosen on validation rows among the candidates of `study.grid`; the test rows are read once, by the
chosen run of each method. Ends with the report and leaves study.json and report.md in the workdir; stop it when you
like, the same command goes on.
"""

from medjax.config import base_config


def get_config():
  config = base_config()
  config.data.train_rows = 400
  config.data.validation_rows = 60
  config.data.test_rows = 200
  config.train.steps = 40
  config.optimizer.warmup_steps = 4
  config.study.tasks = ("triage", "numeric_classification")
  config.study.grid = {
    "sft": ({"optimizer.learning_rate": 1e-4},),
    "dpo": ({"optimizer.learning_rate": 1e-6},),
  }
  return config
