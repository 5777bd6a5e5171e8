"""Emergency or not: arrivals at two emergency departments, from your copy of a public table.

The table is that of Moon et al., "Triage accuracy and causes of mistriage using the Korean Triage and Acuity Scale",
PLOS ONE 2019 (CC BY 4.0), as comma-separated UTF-8 with one row an arrival and the columns named below. `KTAS_expert`
(Emergency, Non-Emergency) is what is learned. What becomes known only after the triage stands in `after`: a prompt that
showed one of these columns would be refused.

  medjax data --config=configs/triage_emergency_department.py:triage.csv
  medjax train --config=configs/triage_emergency_department.py:triage.csv --workdir=runs/ed-sft
  medjax eval --config=configs/triage_emergency_department.py:triage.csv \
    --checkpoint=runs/ed-sft --workdir=runs/ed-sft --split=test

Rows are split 70/10/20 by a hash of each row's content. docs/tasks.md has what the embedded model made of it.
"""

from medjax.config import base_config


def get_config(source="triage.csv"):
  config = base_config()
  config.task = "triage"
  config.data.source = source
  config.define.name = "triage_emergency_department"
  config.define.public = "ktas"
  config.define.prompt = (
    "Patient: {Age}, {Sex}\nArrival: {Arrival mode}\nChief complaint: {Chief_complain}\nInjury: {Injury}\n"
    "Mental state: {Mental}\nPain: {Pain}\n"
    "Vital signs: systolic BP {Systolic BP} mmHg, diastolic BP {Diastolic BP} mmHg, heart rate {Heart Rate} /min, "
    "respiratory rate {Respiratory Rate} /min, temperature {Body Temperature} °C"
  )
  config.define.labels = {"KTAS_expert": ("Non-Emergency", "Emergency")}
  config.define.ordinal = "KTAS_expert"
  config.define.instruction = (
    "Triage the patient who arrives at the emergency department. Reply with the urgency (Non-Emergency, Emergency)."
  )
  config.define.after = (
    *("KTAS_Nurse", "Diagnosis in ED", "Disposition", "Error_group", "Length of stay_min", "KTAS duration_min"),
    *("Mistriage Category", "status"),
  )
  config.optimizer.learning_rate = 1e-4
  return config
