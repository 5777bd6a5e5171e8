"""The main job on two CPU cores: base, SFT and DPO on both tasks, with the embedded model.

  medjax study --config=configs/study/demo.py --workdir=runs/demo
  medjax study --config=configs/study/demo.py --config.study.tasks=triage --workdir=runs/demo-triage

One candidate a method: its learning rate was found on validation rows beforehand, within this budget. The test rows
are read once. Ends with the table of results and leaves study.json and report.md in the workdir; stop it when you like,
the same command goes on.

Budget for triage in five minutes: SFT on 200 examples and DPO on 24 pairs, once each, about 19,000 and 2,500 tokens
forward and backward; 75 test rows for each of the three methods, about 32,000 tokens forward, the answers that are
scored included. That is enough to see the road work and a first gain over the base model, not to see what either
method can do: the baselines in docs/tasks.md stay ahead of it. The thyroid rows need more: SFT on 300 of them.
"""

from medjax.config import base_config


def get_config():
  config = base_config()
  config.data.validation_rows = 60
  config.data.test_rows = 75
  config.train.batch_size = 4
  config.train.row_length = 224
  config.train.microbatch_rows = 2
  config.optimizer.warmup_steps = 5
  config.evaluation.batch_size = 2
  config.study.tasks = ("triage", "numeric_classification")
  dpo = {"data.train_rows": 24, "optimizer.learning_rate": 2e-6}
  config.study.grid = {
    "triage/sft": ({"train.steps": 50, "optimizer.learning_rate": 1e-4},),
    "triage/dpo": (dpo,),
    "numeric_classification/sft": (
      {"train.steps": 75, "train.row_length": 160, "optimizer.warmup_steps": 7, "optimizer.learning_rate": 2e-4},
    ),
    "numeric_classification/dpo": ({**dpo, "train.row_length": 160},),
  }
  return config
