"""Emergency or not: arrivals at two emergency departments, from your copy of a public table.

The table is that of Moon et al., "Triage accuracy and causes of mistriage using the Korean Triage and Acuity Scale",
PLOS ONE 2019 (CC BY 4.0), as comma-separated UTF-8 with one row an arrival and the columns named below. `KTAS_expert`
(Emergency, Non-Emergency) is what is learned. What becomes known only after the triage (the nurse's level, diagnosis,
disposition, kind of error, durations, mistriage) is never shown to the model.

  medjax train --config=configs/triage_emergency_department.py --config.data.source=triage.csv --workdir=runs/ed-sft
  medjax eval --config=configs/triage_emergency_department.py --config.data.source=triage.csv \
    --checkpoint=runs/ed-sft --workdir=runs/ed-sft --split=test

Rows are split 70/10/20 by a hash of each row's content. This file is also the pattern for a task of your own: a Task,
registered, and a config that names it.
"""

from medjax.config import base_config
from medjax.tasks.task import Target, Task, register

VITALS = {
  "Systolic BP": ("systolic BP", "mmHg"),
  "Diastolic BP": ("diastolic BP", "mmHg"),
  "Heart Rate": ("heart rate", "/min"),
  "Respiratory Rate": ("respiratory rate", "/min"),
  "Body Temperature": ("temperature", "°C"),
}


def known(value):
  """The text of a cell; missing cells are empty or hold question marks."""
  text = "" if value is None else str(value).strip()
  return "" if set(text) <= {"?"} else text


def render(fields):
  """What the triage nurse knows on arrival."""
  lines = [
    f"Patient: {known(fields['Age']) or 'unknown age'}, {known(fields['Sex']).lower() or 'unknown sex'}",
    f"Arrival: {known(fields['Arrival mode']).lower() or 'unknown'}",
    f"Chief complaint: {known(fields['Chief_complain']) or 'not recorded'}",
    f"Injury: {known(fields['Injury']).lower() or 'unknown'}",
    f"Mental state: {known(fields['Mental']).lower() or 'unknown'}",
    f"Pain: {known(fields['Pain']).lower() or 'unknown'}",
  ]
  vitals = [
    f"{name} {known(fields[column])} {unit}" if known(fields[column]) else f"{name} not measured"
    for column, (name, unit) in VITALS.items()
  ]
  return "\n".join([*lines, f"Vital signs: {', '.join(vitals)}"])


def rejections(labels, fields, rng):
  """The other of the two labels."""
  del fields, rng
  if labels["urgency"] == "emergency":
    return [({"urgency": "non-emergency"}, "under_triage")]
  return [({"urgency": "emergency"}, "over_triage")]


register(
  Task(
    name="triage_emergency_department",
    description="emergency department arrival -> urgency (bring the table of Moon et al. 2019)",
    targets={"urgency": Target(("non-emergency", "emergency"), ordinal=True)},
    instruction="Triage the patient who arrives at the emergency department. Reply with the urgency "
    "(non-emergency, emergency).",
    render=render,
    answer="{urgency}",
    rejections=rejections,
  )
)


def get_config():
  config = base_config()
  config.task = "triage_emergency_department"
  config.data.columns.urgency = "KTAS_expert"
  config.optimizer.learning_rate = 1e-4
  return config
