"""What people call the ids of a study: metrics, methods, targets, numbers."""

from collections.abc import Mapping

from medjax.evaluation.metrics import METRICS
from medjax.evaluation.text_metrics import TEXT_METRICS

LOWER_IS_BETTER = frozenset(
  name for name, metric in {**METRICS, **TEXT_METRICS}.items() if metric.higher_is_better is False
)
_METRICS = {
  "macro_f1": "macro-F1",
  "mcc": "Matthews correlation",
  "kappa": "Cohen’s kappa",
  "quadratic_kappa": "quadratic kappa",
  "under_triage": "under-triage",
  "over_triage": "over-triage",
  "fact_f1": "fact F1",
  "rouge1": "ROUGE-1",
  "rouge2": "ROUGE-2",
  "rougeL": "ROUGE-L",
}
_METHODS = {
  "few_shot": "few-shot",
  "sft": "SFT",
  "dpo": "DPO",
  "dpo_from_base": "DPO from base",
  "orpo": "ORPO",
  "simpo": "SimPO",
  "kto": "KTO",
  "majority": "majority class",
}


def metric(name: str) -> str:
  """The metric's name in print, with its direction where lower is better."""
  shown = _METRICS.get(name, name.replace("_", " "))
  return f"{shown} (lower is better)" if name in LOWER_IS_BETTER else shown


def method(name: str) -> str:
  """The method's or baseline's name in print."""
  return _METHODS.get(name, name.replace("_", " "))


def run(row: Mapping, several_seeds: bool) -> str:
  """The method of a row with its seed where the study has several; baselines have none."""
  shown = method(row["method"])
  return f"{shown} (seed {row['seed']})" if several_seeds and not row.get("baseline") else shown


def target(row: Mapping) -> str:
  """Task and target of a row: `numeric classification / thyroid`."""
  return f"{row['task']} / {row['target']}".replace("_", " ")


def number(value: float, sign: str = "") -> str:
  """Three digits, with a real minus sign; `sign="+"` shows the plus as well."""
  return f"{value:{sign}.3f}".replace("-", "−")


def interval(row: Mapping, sign: str = "") -> str:
  """`[low, high]` of a row."""
  return f"[{number(row['low'], sign)}, {number(row['high'], sign)}]"


def several_seeds(study: Mapping) -> bool:
  """Whether methods of a study were trained with more than one seed."""
  return len({row["seed"] for row in study["results"] if not row.get("baseline")}) > 1
