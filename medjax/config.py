"""The one schema of a run: every key with its default, loading from a file, overrides, validation."""

import ast
import difflib
import importlib.util
import inspect
import numbers
import os
import pathlib
import re
import traceback
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from medjax import files
from medjax.config_checks import METHODS, PAIRS, check_study, check_values, get, near, refuse
from medjax.errors import UserError
from medjax.methods import settings_of

_FREE = ("define", "data.columns", "study.grid")  # mappings whose keys are the user's own


def base_config() -> ml_collections.ConfigDict:
  """Every key of a run with its default, locked: start each config file from this."""
  config = ml_collections.ConfigDict()
  # A registered task (`medjax tasks`), a kind of task that `define` completes, or FILE.py[:NAME] that registers one;
  # empty: data.source holds prompts and answers.
  config.task = ""
  config.method = "sft"  # sft | dpo; base trains nothing and is only evaluated
  config.seed = 0

  # What the columns of your data.source mean (docs/data.md): prompt, labels, ordinal, ...; empty: a task as it is.
  config.define = ml_collections.ConfigDict()

  config.model = ml_collections.ConfigDict()
  config.model.path = "embedded:smollm2-135m"  # embedded model, Hugging Face directory, .gguf file or hub id
  # Of the computation: auto (float32 on a CPU, else bfloat16) | float32 | bfloat16; parameters are trained in float32.
  config.model.dtype = "auto"
  config.model.attention = "auto"  # auto | xla | pallas (TPU) | splash (TPU, SFT) | cudnn (NVIDIA)
  # What the backward pass computes again: none | products (what lies between matrix products) | full (each block).
  config.model.remat = "products"
  config.model.max_length = 0  # tokens of a prompt and an answer; 0: the model's own context

  config.lora = ml_collections.ConfigDict()
  config.lora.rank = 0  # of the low-rank adapters that are trained in place of the weights; 0: all weights are trained
  config.lora.alpha = 16.0  # the adapters' output is multiplied by alpha / rank
  config.lora.targets = "all-linear"  # or a regular expression: q_proj|v_proj
  config.lora.dropout = 0.0
  config.lora.rslora = False  # multiply by alpha / sqrt(rank) instead
  config.lora.quantize = "none"  # none | int8 | nf4: how the frozen weights below the adapters are stored

  config.data = ml_collections.ConfigDict()
  # Files (.jsonl, .csv, .parquet, ...), a directory of splits or a hub id (docs/data.md); empty: the task's own data.
  config.data.source = ""
  config.data.columns = ml_collections.ConfigDict()  # our field -> column of the source, where the names differ
  config.data.split_by = ""  # column whose values must not be shared between splits, such as a patient id
  config.data.stratify = False  # whether rows that are split here are split with the same shares of each label
  config.data.max_prompt = 0  # tokens; 0: no limit of its own
  config.data.max_completion = 0  # tokens; 0: no limit of its own
  config.data.too_long = "cut_prompt"  # cut_prompt | drop | error
  config.data.train_rows = 0  # the first n; 0: all
  config.data.validation_rows = 0
  config.data.test_rows = 0

  config.train = ml_collections.ConfigDict()
  config.train.init_from = ""  # workdir or checkpoint directory to start from; empty: model.path
  config.train.steps = 0  # optimizer steps; 0: train.epochs decides
  config.train.epochs = 1.0
  config.train.batch_size = 8  # examples or pairs of an optimizer step, over all devices
  config.train.row_length = 2048  # most tokens of a packed row
  config.train.microbatch_rows = 0  # rows computed at once, over all devices; 0: one on each device
  config.train.skip_nonfinite = 0  # steps of NaN or infinite loss or gradient that may be left out, counted; 0: stop
  config.train.stall_minutes = 5.0  # without a sign of life (six times as long for compilation) end a run; 0: never

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.name = "adamw"  # adamw | adafactor | lion
  config.optimizer.moments = "float32"  # float32 | bfloat16: of the first moment; AdamW's second is float32 always
  config.optimizer.learning_rate = 1e-5
  config.optimizer.schedule = "cosine"  # cosine | constant | linear, after the warm-up
  config.optimizer.warmup_steps = 10
  config.optimizer.weight_decay = 0.0  # a step takes learning rate times this off each weight, with every optimizer
  config.optimizer.clip_norm = 1.0  # of the global gradient

  config.preference = ml_collections.ConfigDict()
  # sigmoid | sigmoid_norm | cdpo | robust | ipo_sum | ipo_mean | hinge, on single answers, good or bad, kto, and
  # without a reference model simpo | orpo.
  config.preference.loss = "sigmoid"
  config.preference.beta = 0.1  # of orpo its lambda; simpo wants 2 or more
  config.preference.label_smoothing = 0.0  # of cdpo and robust: how likely a preference is the wrong way round
  config.preference.gamma = 1.0  # of simpo: the margin that is aimed at; its authors' for Llama-3-8B, with a beta of 2
  config.preference.sft_weight = 0.0  # of the chosen answers' negative log-likelihood a token, added to the loss
  # precomputed | live | lora_base (the weights below the adapters, where these start at zero).
  config.preference.reference = "precomputed"
  # task: from the task's labels and its policy; given: columns of data.source; or a .jsonl that `medjax prefer` wrote.
  config.preference.pairs = "task"

  config.mesh = ml_collections.ConfigDict()  # devices on each axis; -1: all that the others leave
  config.mesh.data = 1
  config.mesh.fsdp = -1
  config.mesh.tensor = 1
  config.mesh.sequence = 1

  config.checkpoint = ml_collections.ConfigDict()
  config.checkpoint.every = 0  # steps; 0: not by steps
  config.checkpoint.every_minutes = (
    10.0  # of training since the last one; 0: not by time. The last step is always saved
  )
  config.checkpoint.keep = 2  # the last ones; the one of the lowest validation loss stays beside them

  config.evaluation = ml_collections.ConfigDict()
  config.evaluation.every = 0  # steps; 0: not during training
  config.evaluation.split = "validation"
  config.evaluation.batch_size = 16  # prompts decoded at once

  config.study = ml_collections.ConfigDict()
  # base | few_shot | sft | dpo | dpo_from_base | orpo | simpo | kto, see medjax/methods.py
  config.study.methods = METHODS
  config.study.tasks = ()  # empty: config.task
  config.study.seeds = (0,)
  # method, or task/method which wins -> overrides to choose from on validation, one mapping for each candidate
  config.study.grid = ml_collections.ConfigDict()
  config.lock()
  for key in _FREE:
    get(config, key).unlock()
  return config


def validate(config: ml_collections.ConfigDict) -> None:
  """Raises UserError, one line with the key, its value and what is allowed, at the first thing that cannot be run."""
  _check_keys(config)
  check_values(config, _flat(base_config()))
  check_study(config.study)
  for name, candidates in config.study.grid.items():
    for candidate in candidates:
      try:
        trial = with_overrides(config, {**settings_of(name.rpartition("/")[2]), **candidate})
        _replace(trial.study.grid, {})
        validate(trial)
      except UserError as error:
        raise UserError(f"config.study.grid[{name!r}]: {error}") from None


def validate_data(config: ml_collections.ConfigDict) -> None:
  """Raises UserError where a run of one stage has no data to read; `validate` comes first."""
  pairs = config.preference.pairs
  if not config.task and not config.data.source:
    raise UserError("neither config.task nor config.data.source is set; name a task (`medjax tasks`) or a data file")
  if config.method == "dpo" and pairs not in PAIRS:
    if not config.task:
      raise UserError(f"config.preference.pairs is {pairs!r}; set config.task, whose rows it is of")
    if not os.path.isfile(pairs):
      raise UserError(f"config.preference.pairs is {pairs!r}: no such file; write it with `medjax prefer`")
  if config.method == "dpo" and pairs == "task" and not config.task:
    raise UserError(
      "config.method = 'dpo' has no preference pairs; set config.task, or config.preference.pairs=given "
      "and config.data.source to rows with prompt, chosen and rejected (of kto also prompt, completion and label)"
    )


def load(path_with_args: str, overrides: Mapping[str, Any] | None = None) -> ml_collections.ConfigDict:
  """Runs `get_config` of a config file and applies overrides; the result is locked and validated.

  Args:
    path_with_args: `FILE.py` or `FILE.py:ARGS`; ARGS go to `get_config` as one string. Empty: the defaults.
    overrides: `section.key` -> value, or its text as typed on the command line.

  Returns:
    The config.

  Raises:
    UserError: a missing or broken file, an unknown key, a wrong type, or a value that `validate` refuses.
  """
  config = with_overrides(run_file(path_with_args) if path_with_args else base_config(), overrides or {})
  validate(config)
  return config


def with_overrides(config: ml_collections.ConfigDict, overrides: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """A copy of `config` with some keys replaced, checked for name and type but not validated.

  Args:
    config: any complete config.
    overrides: `section.key` -> value, or its text; below `define`, `data.columns` and `study.grid` any
      name is allowed.

  Returns:
    A new locked config.

  Raises:
    UserError: an unknown key, or a value that is not of the key's type.
  """
  copy = config.copy_and_resolve_references()
  known = _flat(base_config())
  for key, value in overrides.items():
    free = next((name for name in _FREE if str(key).startswith(f"{name}.")), None)
    if free:
      section, name = get(copy, free), key[len(free) + 1 :]
      value = _free_value(free, key, value)
      _refuse_dots(free, {name: value})
      if name in section:
        del section[name]  # the value may be of another type
      section[name] = value
    elif key in known:
      section, _, name = key.rpartition(".")
      target = get(copy, section)
      value = _coerce(key, value, known[key])
      if key in _FREE:
        _refuse_dots(key, value)
        _replace(target[name], value)
      else:
        target[name] = value
    elif any(name.startswith(f"{key}.") for name in known):
      raise UserError(f"config key {key!r} is a section; set one of {', '.join(_below(key, known))}")
    else:
      raise UserError(_unknown_key(str(key)))
  return copy


def as_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as plain JSON-able values (tuples become lists)."""
  return _plain(config.to_dict())


def from_dict(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """The config that `as_dict` gave: complete, locked and validated.

  Raises:
    UserError: a key is unknown or missing, or a value is refused.
  """
  config = with_overrides(base_config(), _flat(values))
  missing = sorted(set(_flat(base_config())) - set(_flat(values)))
  if missing:
    raise UserError(f"config lacks the key {missing[0]!r}; it was written by another version of medjax")
  validate(config)
  return config


def from_saved(
  path: pathlib.Path, overrides: Mapping[str, Any] | None = None, named: Collection[str] = ()
) -> ml_collections.ConfigDict:
  """The config that a run or study wrote as `config.json`: data, which runs no Python file of its own choice.

  Args:
    path: the file.
    overrides: as in `load`.
    named: tasks that this command's own config or flags name; of these a Python file may be run.

  Raises:
    UserError: the file cannot be read, or it names a Python file as its task that this command does not name.
  """
  overrides = overrides or {}
  saved = files.read_sealed(path, "remove its `fingerprint` to use it as it is")
  try:
    config = with_overrides(from_dict(saved), overrides)
    validate(config)
  except (ValueError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(f"{path}: not the config of a run ({error}); bring it back from a copy") from None
  except UserError as error:
    raise UserError(f"{path}: {error}") from None
  allowed = {*named, str(overrides.get("task", ""))}
  for task in (config.task, *config.study.tasks):
    if re.search(r"\.py(:|$)", str(task)) and task not in allowed:
      raise UserError(
        f"{path} names the Python file {task} as its task, which runs only where the command itself names it; read "
        f"the file, then add --config.task={task}"
      )
  return config


def run_file(path_with_args: str) -> ml_collections.ConfigDict:
  """Calls the `get_config` of a file, `FILE.py` or `FILE.py:ARGS`; every way this fails becomes a UserError."""
  name, colon, argument = path_with_args, "", ""
  if not os.path.exists(name):
    name, colon, argument = path_with_args.partition(":")
  path = pathlib.Path(name)
  if not path.is_file():
    siblings = [str(other) for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
    raise UserError(f"config file {name} does not exist{near(str(path), siblings)}")
  spec = importlib.util.spec_from_file_location(f"medjax_config_{path.stem}", path)
  if spec is None or path.suffix != ".py":
    raise UserError(f"config file {name} is not a Python file; give a .py file with get_config()")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
      raise UserError(f"config file {name} has no get_config(); define one that returns base_config() with changes")
    takes_argument = bool(inspect.signature(module.get_config).parameters)
    if colon and not takes_argument:
      raise UserError(f"config file {name}: get_config() takes no argument; drop {colon + argument!r}")
    config = module.get_config(argument) if colon else module.get_config()
  except UserError:
    raise
  except Exception as error:
    raise UserError(_reword(path, error)) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(f"config file {name}: get_config() returned {type(config).__name__}, not a ConfigDict")
  try:
    _check_keys(config)
  except UserError as error:
    raise UserError(f"config file {name}: {error}") from None
  config.lock()
  for key in _FREE:
    get(config, key).unlock()
  return config


def _reword(path: pathlib.Path, error: Exception) -> str:
  """One line for an exception of a config file: its line number, and the key where a key was the cause."""
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
  line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
  where = f"config file {path}" + (f" line {line}" if line else "")
  text = " ".join(str(error).split())
  if isinstance(error, AttributeError | KeyError):
    plain = text.replace("\\n", " ").replace("\\", "")
    key = re.search(r"""Key ["'](\w+)["'] does not exist|^["']*(\w+)["']*(?: Did you mean .*)?$""", plain)
    if key:
      return f"{where}: {_unknown_key(key.group(1) or key.group(2))}"
  if isinstance(error, TypeError):
    field = re.search(r"override field '(\w+)'.*original type <class '(\w+)'>.*to type <class '([\w.]+)'>", text)
    if field:
      return f"{where}: key {field.group(1)!r} must be {field.group(3).rpartition('.')[2]}, not {field.group(2)}"
  return f"{where}: {type(error).__name__}: {text}"


def _check_keys(config: ml_collections.ConfigDict) -> None:
  """Refuses a config whose keys or types are not those of `base_config`."""
  known, values = _flat(base_config()), _flat(config)
  for key in values:
    if key not in known:
      raise UserError(_unknown_key(key))
  for key, default in known.items():
    if key not in values:
      raise UserError(f"config key {key!r} is missing; start from medjax.config.base_config()")
    _coerce(key, values[key], default)


def _coerce(key: str, value: Any, default: Any) -> Any:
  """`value` as the type of `default`; text is read as a Python literal unless text is what is wanted."""
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  if isinstance(value, str) and not isinstance(default, str):
    value = _literal(value, isinstance(default, tuple))
  number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if isinstance(default, bool):
    value = {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
    return value if isinstance(value, bool) else refuse(key, value, "true or false")
  if isinstance(default, str) and isinstance(value, str):
    return value
  if isinstance(default, int) and number and float(value).is_integer():
    return int(value)
  if isinstance(default, float) and number:
    return float(value)
  if isinstance(default, tuple) and isinstance(value, tuple | list):
    return tuple(value)
  if isinstance(default, Mapping) and isinstance(value, Mapping):
    if key == "study.grid":
      return {name: _coerce(f"{key}[{name!r}]", candidates, ()) for name, candidates in value.items()}
    return _tuples(value) if key == "define" else dict(value)
  kinds = {str: "text", int: "a whole number", float: "a number", tuple: "a tuple or list", dict: "a mapping"}
  refuse(key, value, next(kind for type_, kind in kinds.items() if isinstance(default, type_)))


def _refuse_dots(key: str, values: Mapping[str, Any]) -> None:
  """Refuses names with a dot, which stands between a section and what is in it."""
  for name, value in values.items():
    if "." in str(name):
      raise UserError(f"config.{key} holds the name {name!r}; it must have no dot")
    if isinstance(value, Mapping):
      _refuse_dots(f"{key}.{name}", value)


def _free_value(section: str, key: str, value: Any) -> Any:
  """The value of a key whose name is the user's own."""
  if section == "define":  # its keys are checked where the task is made of them
    if not isinstance(value, str):
      return _tuples(value)
    return {"true": True, "false": False}.get(value.lower(), _literal(value, False))
  return _coerce(key, value, "" if section == "data.columns" else ())


def _tuples(value: Any) -> Any:
  """Lists as tuples, at every depth: what a config has from JSON is then equal to what it has from a file."""
  if isinstance(value, Mapping):
    return {name: _tuples(inner) for name, inner in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _literal(text: str, wants_tuple: bool) -> Any:
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    if not wants_tuple:
      return text
    return tuple(_literal(item.strip(), False) for item in text.strip("()[] ").split(",") if item.strip())
  return value if not wants_tuple or isinstance(value, tuple | list) else (value,)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Nested sections -> `section.key`; the free mappings stay whole."""
  if isinstance(values, ml_collections.ConfigDict):
    values = values.to_dict()
  flat = {}
  for name, value in values.items():
    key = f"{prefix}{name}"
    if isinstance(value, Mapping) and key not in _FREE:
      flat.update(_flat(value, f"{key}."))
    else:
      flat[key] = value
  return flat


def _plain(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {name: _plain(inner) for name, inner in value.items()}
  return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def _replace(mapping: ml_collections.ConfigDict, values: Mapping[str, Any]) -> None:
  for name in list(mapping):
    del mapping[name]
  for name, value in values.items():
    mapping[name] = value


def _below(section: str, known: Mapping[str, Any]) -> list[str]:
  return [name for name in known if name.startswith(f"{section}.")]


def _unknown_key(key: str) -> str:
  known = list(_flat(base_config()))
  last = key.rpartition(".")[2]
  by_name = difflib.get_close_matches(last, [name.rpartition(".")[2] for name in known], 1, 0.6)
  near = difflib.get_close_matches(key, known, 1, 0.7) or [
    name for name in known if by_name and name.rpartition(".")[2] == by_name[0]
  ]
  hint = f"did you mean {near[0]}?" if near else "see medjax/config.py for the keys there are"
  return f"unknown config key {key!r}; {hint}"
