"""Summarization of encounters (simulated): a short handover summary, judged by the facts it states and invents.

Supervised fine-tuning of the embedded model, then DPO from that checkpoint against summaries with one mistake each (a
fact left out or invented, the wrong side, dose or unit, a denied symptom as present):

  medjax train --config=configs/summarization.py --workdir=runs/summarization-sft
  medjax train --config=configs/summarization.py --config.method=dpo \
    --config.train.init_from=runs/summarization-sft --config.optimizer.learning_rate=1e-6 \
    --workdir=runs/summarization-dpo
  medjax eval --config=configs/summarization.py --checkpoint=runs/summarization-dpo --workdir=runs/summarization-dpo

Expect the loss in metrics.jsonl to fall within the first tens of steps, once the fixed order of the summary is learnt,
and eval to generate a summary for each row and print fact F1, fact recall, invention rate, ROUGE-1/2/L and the length
ratio. On CPU a step takes seconds; --config.train.steps=20 is a quick look.
"""

from medjax.config import base_config


def get_config():
  config = base_config()
  config.task = "summarization"
  config.optimizer.learning_rate = 1e-4
  return config
