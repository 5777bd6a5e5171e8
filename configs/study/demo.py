"""The main job on two CPU cores: base, SFT and DPO on both tasks, with the embedded model.

  medjax study --config=configs/study/demo.py --workdir=runs/demo
  medjax study --config=configs/study/demo.py --config.study.tasks=triage --workdir=runs/demo-triage

One candidate a method, so nothing is chosen on validation; the test rows are read once. Ends with the table of results
and leaves study.json and report.md in the workdir; stop it when you like, the same command goes on.

Budget for one task in five minutes: SFT on 200 examples and DPO on 48 pairs, both once, about 19,000 and 5,000 tokens
forward and backward for triage; and 99 test messages of about 140 tokens, the twelve answers included, forward for
each of the three methods. That is enough to see the road work and a first gain over the base model, not to see what
either method can do: the bag-of-words baselines in docs/tasks.md stay ahead of it.
"""

from medjax.config import base_config


def get_config():
  config = base_config()
  config.data.train_rows = 200
  config.data.validation_rows = 60
  config.data.test_rows = 99
  config.train.batch_size = 4
  config.train.row_length = 320
  config.train.microbatch_rows = 1
  config.optimizer.warmup_steps = 4
  config.evaluation.batch_size = 2
  config.study.tasks = ("triage", "numeric_classification")
  config.study.grid = {
    "sft": ({"train.steps": 50, "optimizer.learning_rate": 3e-4},),
    "dpo": ({"data.train_rows": 48, "train.steps": 12, "optimizer.learning_rate": 1e-5},),
    "numeric_classification/sft": ({"data.train_rows": 300, "train.steps": 75, "optimizer.learning_rate": 2e-4},),
  }
  return config
