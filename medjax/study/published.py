"""The figures of the published study of SFT and DPO on clinical tasks, for studies of the same kinds and models."""

import re
from collections.abc import Mapping
from typing import Any

CITATION = (
  "Savage T, Ma SP, Boukil A, Rangan E, Patel V, Lopez I, Chen J. Fine-tuning methods for large language models in "
  "clinical medicine by supervised fine-tuning and direct preference optimization: comparative evaluation. J Med "
  "Internet Res 2025;27:e76048. doi:10.2196/76048."
)
CAVEAT = (
  "Other patients, prompts, labels and training: the figures stand side by side to be read with that in mind, and no "
  "difference between the two studies is tested."
)
METHODS = ("base", "sft", "dpo")
_MODELS = {  # published name -> what a path or hub id of that model holds
  "Llama-3-8B-Instruct": re.compile(r"llama-?3-8b-instruct", re.IGNORECASE),
  "Mistral-7B-Instruct-v0.2": re.compile(r"mistral-7b-instruct-v0\.2", re.IGNORECASE),
}
_FIGURES = {  # kind of task, what is decided -> metric, and by model base, SFT, DPO
  ("clinical_reasoning", ""): ("accuracy", (0.07, 0.28, 0.36), (0.22, 0.33, 0.40)),
  ("summarization", ""): ("quality from 1 to 5, by physicians", (4.11, 4.21, 4.34), (3.93, 3.98, 4.08)),
  ("triage", "provider"): ("F1", (0.55, 0.58, 0.74), (0.49, 0.52, 0.66)),
  ("triage", "urgency"): ("F1", (0.81, 0.79, 0.91), (0.88, 0.87, 0.85)),
  ("text_classification", ""): ("F1", (0.63, 0.98, None), (0.73, 0.97, None)),
}


def beside(study: Mapping[str, Any]) -> list[dict[str, Any]]:
  """What was published of the study's targets, where kind of task and model are those of the published study.

  Args:
    study: what `study.json` holds; `data` says which targets are ordinal.

  Returns:
    For each target `task, target, model` (the published one's name)`, metric` and `values` (method -> value or None);
    empty for another model.
  """
  path = str(study.get("protocol", {}).get("model", ""))
  model = next((name for name, pattern in _MODELS.items() if pattern.search(path)), None)
  if model is None:
    return []
  out = []
  for task, target in dict.fromkeys((row["task"], row["target"]) for row in study["results"]):
    found = _FIGURES.get(_kind(study, task, target))
    if found:
      metric, *by_model = found
      values = dict(zip(METHODS, by_model[list(_MODELS).index(model)], strict=True))
      out.append({"task": task, "target": target, "model": model, "metric": metric, "values": values})
  return out


def _kind(study: Mapping[str, Any], task: str, target: str) -> tuple[str, str]:
  """The kind of a task, which is its name, and for triage whether a target is the provider or the urgency."""
  if task != "triage":
    return task, ""
  ordinal = study.get("data", {}).get(task, {}).get("targets", {}).get(target) == "ordinal"
  return task, target if target in ("provider", "urgency") else "urgency" if ordinal else ""
