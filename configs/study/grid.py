"""A small grid, searched for real on two CPU cores: base, SFT and DPO on two tasks, two seeds, four settings a method.

  medjax study --config=configs/study/grid.py --halving=2 --workdir=runs/grid

SFT and DPO have each a grid of 2 x 2: learning rate and steps, learning rate and beta. With --halving=2 all four
settings are trained to a quarter of their steps, the better two on validation to half, the best to the end; without it
all four are trained to the end. The test rows are scored once for each seed, by the setting that was chosen. Expect a
half to three quarters of an hour; stop it when you like, the same command goes on.
"""

from medjax.config import base_config
from medjax.study.grids import product


def get_config():
  config = base_config()
  config.data.train_rows = 120
  config.data.validation_rows = 32
  config.data.test_rows = 60
  config.train.batch_size = 4
  config.optimizer.warmup_steps = 2
  config.evaluation.batch_size = 2
  config.study.tasks = ("text_classification", "triage")
  config.study.seeds = (0, 1)
  few = {"data.train_rows": 24, "train.steps": 6}
  rates_and_betas = product({"optimizer.learning_rate": (2e-6, 1e-5), "preference.beta": (0.1, 0.3)})
  config.study.grid = {
    "sft": product({"optimizer.learning_rate": (1e-4, 3e-4), "train.steps": (12, 24)}),
    "dpo": tuple({**few, **one} for one in rates_and_betas),
  }
  return config
