"""A whole visit's conversation to its clinical note (ACI-Bench).

ACI-Bench (Yim et al., Scientific Data 2023; CC BY 4.0): 67 visits for training, 20 for validation and three test sets
of 40, as comma-separated files with the columns `dialogue` and `note` (github.com/wyim/aci-bench, challenge_data). Put
them into one folder as train.csv, validation.csv and, of the test sets the one that you report on, test.csv:

  medjax data --config=configs/aci_bench.py:FOLDER
  medjax train --config=configs/aci_bench.py:FOLDER --workdir=runs/aci-sft
  medjax eval --config=configs/aci_bench.py:FOLDER --checkpoint=runs/aci-sft --workdir=runs/aci-sft --split=test

Conversations have 1,500 tokens and more, notes 600: it needs a model with a context of 4,096 and rows as long.
"""

from medjax.config import base_config


def get_config(source="aci_bench"):
  config = base_config()
  config.task = "summarization"
  config.data.source = source
  config.define.name = "aci_bench"
  config.define.public = "aci_bench"
  config.define.prompt = "{dialogue}"
  config.define.summary = "note"
  config.define.instruction = "Write the clinical note of this visit from the conversation."
  config.define.max_new_tokens = 1024
  config.train.row_length = 4096
  config.optimizer.learning_rate = 1e-5
  return config
