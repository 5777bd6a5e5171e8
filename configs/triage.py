"""Triage of patient portal messages (simulated): who answers first, and how urgent it is.

Supervised fine-tuning of the embedded model, then DPO from that checkpoint against the task's own wrong answers:

  medjax train --config=configs/triage.py --workdir=runs/triage-sft
  medjax train --config=configs/triage.py --config.method=dpo --config.train.init_from=runs/triage-sft \
    --config.optimizer.learning_rate=1e-6 --workdir=runs/triage-dpo
  medjax eval --config=configs/triage.py --checkpoint=runs/triage-dpo --workdir=runs/triage-dpo

Expect the loss in metrics.jsonl to fall within the first tens of steps, and eval to print accuracy, macro-F1, under-
and over-triage for `provider` and `urgency`. On CPU a step takes seconds; --config.train.steps=20 is a quick look.
"""

from medjax.config import base_config


def get_config():
  config = base_config()
  config.task = "triage"
  config.optimizer.learning_rate = 1e-4
  return config
