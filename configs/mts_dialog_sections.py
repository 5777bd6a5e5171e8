"""Which section of the note a conversation belongs to: MTS-Dialog, 20 sections.

MTS-Dialog (Ben Abacha et al., EACL 2023; CC BY 4.0) has 1,201 training and 100 validation conversations as
comma-separated files (github.com/abachaa/MTS-Dialog). Put them into one folder as train.csv and validation.csv; its two
test files, if you want them, as one test.csv with the same columns. Without a test file evaluate on validation.

  medjax data --config=configs/mts_dialog_sections.py:FOLDER
  medjax train --config=configs/mts_dialog_sections.py:FOLDER --workdir=runs/sections-sft
  medjax eval --config=configs/mts_dialog_sections.py:FOLDER --checkpoint=runs/sections-sft --workdir=runs/sections-sft

Sections are of very different size (GENHX every fourth row, some have a handful), so read macro-F1 beside accuracy. A
few conversations of validation stand in the training file too; `medjax data` names them.
"""

from medjax.config import base_config


def get_config(source="mts_dialog"):
  config = base_config()
  config.task = "text_classification"
  config.data.source = source
  config.define.name = "mts_dialog_sections"
  config.define.public = "mts_dialog"
  config.define.prompt = "{dialogue}"
  config.define.labels = "section_header"
  config.define.after = "section_text"
  config.define.instruction = (
    "Which section of the clinical note does this conversation belong to? Reply with its name."
  )
  config.optimizer.learning_rate = 1e-4
  return config
