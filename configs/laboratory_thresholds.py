"""Sodium and transaminases of laboratory panels (simulated): which class does each value fall in?

Supervised fine-tuning of the embedded model, then DPO from that checkpoint against neighbouring classes:

  medjax train --config=configs/laboratory_thresholds.py --workdir=runs/panels-sft
  medjax train --config=configs/laboratory_thresholds.py --config.method=dpo --config.train.init_from=runs/panels-sft \
    --config.optimizer.learning_rate=1e-6 --workdir=runs/panels-dpo
  medjax eval --config=configs/laboratory_thresholds.py --checkpoint=runs/panels-dpo --workdir=runs/panels-dpo

The rule is in the prompt and a decision tree on the values makes no error, so 1.0 is the bar; the commonest class has a
macro-F1 of 0.17 to 0.18, words without their order 0.70 for sodium and 0.49 for transaminases from 250 panels. A
quarter of the values stand at a threshold: look for the errors there.
"""

from medjax.config import base_config


def get_config():
  config = base_config()
  config.task = "laboratory_thresholds"
  config.optimizer.learning_rate = 1e-4
  return config
