"""Every key with its default: the config of a plain fine-tuning run on your own file.

Supervised fine-tuning on rows of `prompt` and `completion`, or of `messages`:

  medjax train --config=configs/base.py --config.data.source=notes.jsonl --workdir=runs/notes

DPO from that checkpoint, on rows of `prompt`, `chosen` and `rejected`:

  medjax train --config=configs/base.py --config.method=dpo --config.preference.pairs=given \
    --config.data.source=preferences.jsonl --config.train.init_from=runs/notes --workdir=runs/preferences

Each run leaves checkpoints, metrics.jsonl and config.json in its workdir; the same command again goes on where it was.
"""

from medjax.config import base_config


def get_config():
  return base_config()
