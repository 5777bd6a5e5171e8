"""Research questions answered yes, no or maybe from an abstract, with the conclusion as reasons (PubMedQA).

PubMedQA (Jin et al., EMNLP 2019; MIT), the 1,000 questions with experts' labels from the hub. Which 500 of them are the
published test set is a list of ids in the authors' repository; here they are split by a hash, so that numbers are not
comparable with published ones.

  medjax data --config=configs/pubmedqa.py
  medjax train --config=configs/pubmedqa.py --workdir=runs/pubmedqa-sft
  medjax eval --config=configs/pubmedqa.py --checkpoint=runs/pubmedqa-sft --workdir=runs/pubmedqa-sft --split=test

The answer is generated, reasons first, and read after `Answer:`. With an empty --config.define.reasons it is had by
likelihood, which is faster. `configs/pubmedqa.py:FILE` reads a copy of your own with the same columns.
"""

from medjax.config import base_config


def get_config(source=""):
  config = base_config()
  config.task = "clinical_reasoning"
  config.data.source = source or "hf:qiaojin/PubMedQA:pqa_labeled#train"
  config.data.columns.id = "pubid"
  config.define.name = "pubmedqa"
  config.define.public = "pubmedqa"
  config.define.prompt = "{context}\n\n{question}"
  config.define.labels = ("yes", "no", "maybe")
  config.define.answer = "final_decision"
  config.define.reasons = "long_answer"
  config.optimizer.learning_rate = 1e-5
  return config
