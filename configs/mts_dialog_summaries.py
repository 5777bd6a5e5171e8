"""The section of the note that a conversation leads to: MTS-Dialog.

The data are those of configs/mts_dialog_sections.py (Ben Abacha et al., EACL 2023; CC BY 4.0), as a folder with
train.csv, validation.csv and, if you have it, test.csv.

  medjax data --config=configs/mts_dialog_summaries.py:FOLDER
  medjax train --config=configs/mts_dialog_summaries.py:FOLDER --workdir=runs/notes-sft
  medjax prefer --config=configs/mts_dialog_summaries.py:FOLDER --how=perturb --output=runs/notes-pairs.jsonl
  medjax train --config=configs/mts_dialog_summaries.py:FOLDER --config.method=dpo \
    --config.train.init_from=runs/notes-sft --config.preference.pairs=runs/notes-pairs.jsonl \
    --config.optimizer.learning_rate=1e-6 --workdir=runs/notes-dpo
  medjax eval --config=configs/mts_dialog_summaries.py:FOLDER --checkpoint=runs/notes-dpo --workdir=runs/notes-dpo

Judged by ROUGE against the reference, which says little of what is true: facts need `must` and `must_not` columns.
"""

from medjax.config import base_config


def get_config(source="mts_dialog"):
  config = base_config()
  config.task = "summarization"
  config.data.source = source
  config.define.name = "mts_dialog_summaries"
  config.define.public = "mts_dialog"
  config.define.prompt = "Section: {section_header}\n{dialogue}"
  config.define.summary = "section_text"
  config.define.instruction = "Write this section of the clinical note from the conversation."
  config.define.max_new_tokens = 160
  config.optimizer.learning_rate = 1e-4
  return config
