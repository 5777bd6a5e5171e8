"""USMLE-style questions: the letter of the right option (MedQA).

MedQA (Jin et al., Applied Sciences 2021; MIT) in its form with four options from the hub, 10,178 questions for training
and 1,273 for testing; a tenth of the training questions is kept for validation by a hash where there is none:

  medjax data --config=configs/medqa.py
  medjax train --config=configs/medqa.py --workdir=runs/medqa-sft
  medjax eval --config=configs/medqa.py --checkpoint=runs/medqa-sft --workdir=runs/medqa-sft --split=test

Of your own copy, a .jsonl file whose `question` ends with lettered options and whose `answer` is the letter:

  medjax data --config=configs/medqa.py:questions.jsonl

If that copy is of the published test set, say so with --config.define.public_test=true: medjax then warns that a model
that is trained on it must not be compared with published results. Guessing among four options is right in a quarter
of the questions; a small model does no better, whatever it is trained on.
"""

from medjax.config import base_config


def get_config(source=""):
  config = base_config()
  config.task = "clinical_reasoning"
  config.data.source = source or "hf:GBaker/MedQA-USMLE-4-options"
  config.define.name = "medqa"
  config.define.public = "medqa"
  config.define.prompt = "{question}"
  if source:
    config.define.answer = "answer"
    config.define.labels = ("A", "B", "C", "D", "E")
    config.define.after = "answer_text"
  else:
    config.define.answer = "answer_idx"
    config.define.options = "options"
    config.define.after = ("answer", "metamap_phrases")
  config.optimizer.learning_rate = 1e-5
  return config
