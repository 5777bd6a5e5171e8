"""The README.md of exported weights: what they are, what they were trained on, how they did, and their licence."""

import json
import math
import pathlib
import re
from typing import Any

import huggingface_hub
import huggingface_hub.repocard
import jinja2
import yaml

import medjax
from medjax import files
from medjax.models.gguf import GgufFile
from medjax.models.pretrained import Description
from medjax.training import checkpoints, curve
from medjax.training.policy import LoadedPolicy

_SHOWN = ("loss", "validation/loss", "rewards/accuracy", "rewards/margin", "validation/rewards/accuracy", "grad_norm")


def render(checkpoint: str, policy: LoadedPolicy, name: str, adapter_of: str = "") -> str:
  """The model card, in Markdown with YAML in front.

  Args:
    checkpoint: what is exported.
    policy: the same, loaded.
    name: of the exported directory.
    adapter_of: the base model, where an adapter is exported.
  """
  identity = policy.identity or {}
  config = identity.get("config")
  licence = _licence(policy.described)
  base = adapter_of or _public_name(config["model"]["path"] if config else policy.described.source)
  tags = ["medjax", *([config["method"]] if config else []), *(["lora"] if policy.lora else [])]
  relation = {"base_model": base, "base_model_relation": "adapter" if adapter_of else "finetune"}
  front = huggingface_hub.ModelCardData(
    **(relation if _is_hub_id(base) else {}),
    library_name="peft" if adapter_of else "transformers",
    pipeline_tag="text-generation",
    tags=tags,
    **licence,
  )
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  return environment.get_template("model_card.md.j2").render(
    front_matter=front.to_yaml().strip(),
    name=name,
    version=medjax.__version__,
    base=base,
    adapter_of=adapter_of,
    lora=policy.lora,
    quantized=policy.quantized,
    license=licence.get("license_name") or licence.get("license"),
    method=_method(config) if config else "",
    task=config["task"] if config else "",
    config=json.dumps(_without_paths(config), indent=2) if config else "",
    data=identity.get("data"),
    steps=identity.get("steps"),
    step=identity.get("step"),
    started_from=_method(before) if (before := (identity.get("init_from") or {}).get("config")) else "",
    metrics=_training_metrics(checkpoint, identity.get("step")) if config else [],
    evaluations=_evaluations(checkpoint) if config else [],
  )


def _method(config: dict) -> str:
  if config["method"] == "sft":
    return "Supervised fine-tuning"
  loss = config["preference"]["loss"]
  if loss in ("simpo", "orpo", "kto"):
    return f"Preference optimization ({loss.upper()})"
  return "Direct preference optimization" + (f" (loss {loss})" if loss != "sigmoid" else "")


def _licence(described: Description) -> dict[str, str]:
  """The licence keys of the base model's own card or file."""
  keys = ("license", "license_name", "license_link")
  if not described.files.is_dir():
    metadata = GgufFile(described.files).metadata
    found = {key: metadata.get(f"general.{key.replace('_', '.')}") for key in keys}
  else:
    card = described.files / "README.md"
    try:
      found = (huggingface_hub.repocard.metadata_load(card) or {}) if card.is_file() else {}
    except (ValueError, yaml.YAMLError):
      found = {}
  return {key: found[key] for key in keys if isinstance(found.get(key), str)}


def _is_hub_id(name: str) -> bool:
  return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def _public_name(path: str) -> str:
  """A model's name without where it lies on this machine, as the hub writes it."""
  return pathlib.Path(path).name if pathlib.Path(path).exists() else re.sub("^(hf|cached):", "", path)


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
  """The config, with names in place of paths of this machine."""
  kept = json.loads(json.dumps(config))
  for section, key in (("model", "path"), ("data", "source"), ("train", "init_from")):
    kept[section][key] = _public_name(kept[section][key]) if kept[section][key] else ""
  return kept


def _training_metrics(checkpoint: str, step: int) -> list[tuple[str, str]]:
  directory, _ = checkpoints.locate(checkpoint)
  if not (directory.parent / curve.FILE).is_file():
    return []
  values = next((line for line in curve.read(directory.parent) if line["step"] == step), {})
  return [(key, f"{values[key]:.5g}") for key in _SHOWN if isinstance(values.get(key), float)]


def _evaluations(checkpoint: str) -> list[dict[str, Any]]:
  """Metrics that `medjax eval` wrote of this very checkpoint."""
  located = checkpoints.locate(pathlib.Path(checkpoint).absolute())
  rows = []
  for file in sorted(located[0].parent.glob("eval/*/metrics.json")):
    found = files.read_sealed(file, f"remove {file.parent} and evaluate again")
    if checkpoints.locate(pathlib.Path(found["checkpoint"]).absolute()) != located:
      continue
    for target, metrics in found["targets"].items():
      rows += [
        {"task": found["task"], "split": found["split"], "n": found["n"], "target": target, "metric": metric}
        | {"value": f"{value:.4f}"}
        for metric, value in metrics.items()
        if isinstance(value, float) and math.isfinite(value)
      ]
  return rows
