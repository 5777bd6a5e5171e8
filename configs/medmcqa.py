"""Questions of Indian medical entrance examinations, four options (MedMCQA).

MedMCQA (Pal et al., CHIL 2022; Apache-2.0) from the hub: 182,822 questions for training, 4,183 for validation; the
labels of the test set are not public, so the validation questions are what is reported on: choose nothing by them.

  medjax data --config=configs/medmcqa.py --config.data.train_rows=5000
  medjax train --config=configs/medmcqa.py --workdir=runs/medmcqa-sft
  medjax eval --config=configs/medmcqa.py --checkpoint=runs/medmcqa-sft --workdir=runs/medmcqa-sft --split=validation

`configs/medmcqa.py:FILE` reads a copy of your own with the columns question, opa to opd, and cop (0 to 3).
"""

from medjax.config import base_config


def get_config(source=""):
  config = base_config()
  config.task = "clinical_reasoning"
  config.data.source = source or "hf:openlifescienceai/medmcqa"
  config.define.name = "medmcqa"
  config.define.public = "medmcqa"
  config.define.prompt = "{question}"
  config.define.options = ("opa", "opb", "opc", "opd")
  config.define.labels = ("A", "B", "C", "D")
  config.define.answer = "cop"
  config.define.other = "drop"  # the test set's answers are -1
  config.define.after = "exp"
  config.optimizer.learning_rate = 1e-5
  return config
