"""Which values of a config can be run, alone and together; `config.validate` is where all of it is called from."""

import difflib
from collections.abc import Mapping
from typing import Any

import ml_collections

from medjax import methods
from medjax.errors import UserError

METHODS = ("base", "sft", "dpo")
KINDS = ("text_classification", "numeric_classification", "clinical_reasoning", "summarization", "triage")
PAIRS = ("task", "given")  # or the path of a file of pairs
REFERENCE_FREE = ("simpo", "orpo")  # losses that compare with no reference model
CHOICES = {
  "method": METHODS,
  "model.dtype": ("auto", "float32", "bfloat16"),
  "model.attention": ("auto", "xla", "pallas", "splash", "cudnn"),
  "model.remat": ("none", "products", "full"),
  "lora.quantize": ("none", "int8", "nf4"),
  "data.too_long": ("cut_prompt", "drop", "error"),
  "optimizer.name": ("adamw", "adafactor", "lion"),
  "optimizer.moments": ("float32", "bfloat16"),
  "optimizer.schedule": ("cosine", "constant", "linear"),
  "preference.loss": (
    *("sigmoid", "sigmoid_norm", "cdpo", "robust", "ipo_sum", "ipo_mean", "hinge", "kto"),
    *REFERENCE_FREE,
  ),
  "preference.reference": ("precomputed", "live", "lora_base"),
  "evaluation.split": ("train", "validation", "test"),
}
_AT_LEAST_ONE = ("train.batch_size", "checkpoint.keep", "evaluation.batch_size")
_AT_LEAST_TWO = ("train.row_length",)
_NOT_NEGATIVE = (
  *("seed", "model.max_length", "data.max_prompt", "data.max_completion", "data.train_rows", "data.validation_rows"),
  *("data.test_rows", "train.steps", "train.microbatch_rows", "train.skip_nonfinite"),
  *("optimizer.warmup_steps", "optimizer.weight_decay"),
  *("train.stall_minutes", "checkpoint.every_minutes"),
  *("checkpoint.every", "evaluation.every", "lora.rank", "lora.dropout", "preference.gamma", "preference.sft_weight"),
)
_POSITIVE = ("train.epochs", "optimizer.learning_rate", "optimizer.clip_norm", "preference.beta", "lora.alpha")
_NOT_IN_GRID = ("task", "method", "seed", "study.")


def check_values(config: ml_collections.ConfigDict, defaults: Mapping[str, Any]) -> None:
  """Raises UserError at the first value, outside of `study`, that cannot be run.

  Args:
    config: a config with all keys, each of its type.
    defaults: `section.key` -> value where nothing is set.
  """
  for key, allowed in CHOICES.items():
    value = get(config, key)
    if value not in allowed:
      refuse(key, value, f"one of {', '.join(allowed)}", near(str(value), allowed))
  for keys, least in ((_AT_LEAST_TWO, 2), (_AT_LEAST_ONE, 1), (_NOT_NEGATIVE, 0)):
    for key in keys:
      if not least <= get(config, key) < float("inf"):
        refuse(key, get(config, key), f"at least {least}")
  for key in _POSITIVE:
    if not 0 < get(config, key) < float("inf"):
      refuse(key, get(config, key), "more than 0")
  if not config.model.path:
    refuse("model.path", "", "the embedded model, a Hugging Face directory, a .gguf file or a hub id")
  _check_preference(config, defaults)
  if len(config.define) and config.task not in KINDS:
    refuse("task", config.task, f"one of {', '.join(KINDS)} where config.define is set", near(config.task, KINDS))
  if len(config.define) and not config.data.source:
    refuse("data.source", "", "your files where config.define is set")
  if config.optimizer.name == "adafactor" and config.optimizer.moments != "float32":
    refuse("optimizer.moments", config.optimizer.moments, "float32 with adafactor, which has no first moment")
  if config.lora.dropout >= 1:
    refuse("lora.dropout", config.lora.dropout, "less than 1")
  if not config.lora.rank and config.lora.quantize != "none":
    refuse("lora.quantize", config.lora.quantize, "none unless lora.rank is more than 0")
  if 0 < config.train.steps < config.optimizer.warmup_steps:
    refuse("optimizer.warmup_steps", config.optimizer.warmup_steps, f"at most train.steps = {config.train.steps}")
  if 0 < config.model.max_length < 2:
    refuse("model.max_length", config.model.max_length, "0 (the model's own context) or at least 2")
  for axis, size in config.mesh.items():
    if size != -1 and size < 1:
      refuse(f"mesh.{axis}", size, "-1 (the rest) or at least 1")
  if sum(size == -1 for size in config.mesh.values()) > 1:
    refuse("mesh", dict(config.mesh.items()), "a size of -1 (the rest) on one axis at most")
  for field, column in config.data.columns.items():
    if not isinstance(column, str) or not column:
      refuse(f"data.columns.{field}", column, "the name of a column")


def _check_preference(config: ml_collections.ConfigDict, defaults: Mapping[str, Any]) -> None:
  settings = config.preference
  if not 0 <= settings.label_smoothing < 0.5:
    refuse("preference.label_smoothing", settings.label_smoothing, "at least 0 and less than 0.5")
  if settings.label_smoothing and settings.loss not in ("cdpo", "robust"):
    refuse("preference.label_smoothing", settings.label_smoothing, "0 unless config.preference.loss is cdpo or robust")
  if settings.gamma != defaults["preference.gamma"] and settings.loss != "simpo":
    unread = f"left at {defaults['preference.gamma']} unless config.preference.loss is simpo, which alone reads it"
    refuse("preference.gamma", settings.gamma, unread)
  if settings.sft_weight and settings.loss == "orpo":
    refuse("preference.sft_weight", settings.sft_weight, "0 with config.preference.loss = orpo, which has that term")
  if settings.sft_weight and settings.loss == "kto":
    refuse("preference.sft_weight", settings.sft_weight, "0 with config.preference.loss = kto, which has no such term")
  if settings.reference != "precomputed" and settings.loss in REFERENCE_FREE:
    refuse(
      "preference.reference",
      settings.reference,
      f"left at precomputed with config.preference.loss = {settings.loss}, which has no reference (none is computed)",
    )
  if not config.lora.rank and settings.reference == "lora_base":
    refuse("preference.reference", "lora_base", "precomputed or live unless lora.rank is more than 0")
  if settings.pairs not in PAIRS and not settings.pairs.endswith(".jsonl"):
    allowed = f"{', '.join(PAIRS)}, or the path of a .jsonl that `medjax prefer` wrote"
    refuse("preference.pairs", settings.pairs, allowed, near(settings.pairs, PAIRS))
  if config.method == "dpo" and settings.pairs == "given" and not config.data.source:
    refuse("preference.pairs", "given", "task, unless data.source names rows of preferences")


def check_study(study: ml_collections.ConfigDict) -> None:
  """Raises UserError at the first value of `study` that cannot be run; candidates are checked for their form alone."""
  known = tuple(methods.METHODS)
  for method in study.methods:
    if method not in known:
      refuse("study.methods", method, f"one of {', '.join(known)}", near(str(method), known))
  if not study.methods or len(set(study.methods)) < len(study.methods):
    refuse("study.methods", study.methods, f"one or more of {', '.join(known)}, each once")
  if {"dpo", "dpo_from_base"} <= set(study.methods) and "sft" not in study.methods:
    refuse("study.methods", study.methods, "without one of dpo and dpo_from_base, which are the same where sft is not")
  if not all(isinstance(task, str) and task for task in study.tasks) or len(set(study.tasks)) < len(study.tasks):
    refuse("study.tasks", study.tasks, "names of tasks, each once")
  seeds_fit = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in study.seeds)
  if not study.seeds or not seeds_fit or len(set(study.seeds)) < len(study.seeds):
    refuse("study.seeds", study.seeds, "one or more whole numbers from 0, each once")
  for name, candidates in study.grid.items():
    key = f"study.grid[{name!r}]"
    method = name.rpartition("/")[2]
    if method not in known:
      refuse(key, method, "named METHOD or TASK/METHOD", near(method, known))
    if method in methods.UNTRAINED:
      refuse(key, candidates, f"left out: {method} trains nothing")
    if not all(isinstance(item, Mapping) for item in candidates):
      refuse(key, candidates, "a tuple of mappings such as {'optimizer.learning_rate': 1e-4}")
    for candidate in candidates:
      for override in candidate:
        if str(override).startswith(_NOT_IN_GRID):
          refuse(key, override, "a key other than task, method, seed and study.*")


def get(config: ml_collections.ConfigDict, key: str) -> Any:
  """The value at `section.key`; the whole config for an empty key."""
  for name in key.split(".") if key else ():
    config = config[name]
  return config


def near(value: str, known: Any) -> str:
  """The end of a message: which of the known words was perhaps meant; empty where none is like it."""
  found = difflib.get_close_matches(value, list(known), 1)
  return f"; did you mean {found[0]}?" if found else ""


def refuse(key: str, value: Any, allowed: str, hint: str = "") -> None:
  """Raises the UserError of a key that has a value which is not allowed."""
  raise UserError(f"config.{key} is {value!r}; it must be {allowed}{hint}")
