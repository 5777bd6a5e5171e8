"""The best diagnosis of a vignette among four options, with the reasons for it (simulated patients).

Supervised fine-tuning of the embedded model, then DPO from that checkpoint against answers that misread a finding:

  medjax train --config=configs/clinical_reasoning.py --workdir=runs/reasoning-sft
  medjax train --config=configs/clinical_reasoning.py --config.method=dpo \
    --config.train.init_from=runs/reasoning-sft --config.optimizer.learning_rate=1e-6 --workdir=runs/reasoning-dpo
  medjax eval --config=configs/clinical_reasoning.py --checkpoint=runs/reasoning-dpo --workdir=runs/reasoning-dpo

The answer is generated, greedily, and the diagnosis read from its last line: expect eval to print the accuracy of
`diagnosis` with the number of answers that named no option, which count as wrong. Guessing among the options is right
in a quarter of the rows. On CPU a step takes seconds; --config.train.steps=20 is a quick look.
"""

from medjax.config import base_config


def get_config():
  config = base_config()
  config.task = "clinical_reasoning"
  config.optimizer.learning_rate = 1e-4
  return config
