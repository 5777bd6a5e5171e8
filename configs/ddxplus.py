"""The disease of a synthetic patient from age, sex and findings (DDXPlus), 49 diseases.

DDXPlus (Fansi Tchango et al., NeurIPS 2022; CC BY 4.0): a million patients for training, 130,000 each for validation
and test, as comma-separated files. Unpack the archives of the authors (figshare, linked at
github.com/mila-iqia/ddxplus) into one folder as train.csv, validate.csv and test.csv:

  medjax data --config=configs/ddxplus.py:FOLDER --config.data.train_rows=5000
  medjax train --config=configs/ddxplus.py:FOLDER --workdir=runs/ddxplus-sft
  medjax eval --config=configs/ddxplus.py:FOLDER --checkpoint=runs/ddxplus-sft --workdir=runs/ddxplus-sft

Findings are codes (E_91, E_55_@_V_123): their words are in release_evidences.json; a file with words in place of codes
in the column EVIDENCES is read just as well, and says more to a language model.
"""

from medjax.config import base_config


def get_config(source="ddxplus"):
  config = base_config()
  config.task = "text_classification"
  config.data.source = source
  config.data.train_rows = 20000
  config.data.validation_rows = 500
  config.data.test_rows = 2000
  config.define.name = "ddxplus"
  config.define.public = "ddxplus"
  config.define.prompt = "{AGE} years old, {SEX}. First: {INITIAL_EVIDENCE}. Findings: {EVIDENCES}"
  config.define.labels = "PATHOLOGY"
  config.define.after = "DIFFERENTIAL_DIAGNOSIS"
  config.optimizer.learning_rate = 5e-5
  return config
