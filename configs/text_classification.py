"""Short clinical notes (simulated): does the patient meet the criteria of a urinary tract infection now?

Supervised fine-tuning of the embedded model, then DPO from that checkpoint against the wrong label:

  medjax train --config=configs/text_classification.py --workdir=runs/uti-sft
  medjax train --config=configs/text_classification.py --config.method=dpo --config.train.init_from=runs/uti-sft \
    --config.optimizer.learning_rate=1e-6 --workdir=runs/uti-dpo
  medjax eval --config=configs/text_classification.py --checkpoint=runs/uti-dpo --workdir=runs/uti-dpo

Always answering `no` has a macro-F1 of 0.33; words without their order reach 0.63 from 250 notes and 0.74 from all
1,000 (docs/tasks.md), and a careful reader 1.0. A model below 0.74 has not learnt to read who has what, and when.
"""

from medjax.config import base_config


def get_config():
  config = base_config()
  config.task = "text_classification"
  config.optimizer.learning_rate = 1e-4
  return config
