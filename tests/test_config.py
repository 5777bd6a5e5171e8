import json
import pathlib

import pytest

from medjax import config as schema
from medjax import config_checks
from medjax.errors import UserError
from medjax.objectives import preference

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").rglob("*.py"))


def write(tmp_path, text):
  path = tmp_path / "mine.py"
  path.write_text("from medjax.config import base_config\n" + text)
  return str(path)


@pytest.mark.parametrize(
  ("key", "text", "value"),
  [
    ("train.steps", "10", 10),
    ("train.epochs", "2", 2.0),
    ("optimizer.learning_rate", "1e-4", 1e-4),
    ("model.path", "12", "12"),
    ("study.methods", "sft,dpo", ("sft", "dpo")),
    ("study.methods", "('sft',)", ("sft",)),
    ("study.tasks", "triage", ("triage",)),
    ("study.seeds", "0,1", (0, 1)),
    ("study.seeds", "3", (3,)),
    ("study.grid", "{'sft': [{'train.steps': 20}]}", {"sft": ({"train.steps": 20},)}),
    ("data.columns", "{'prompt': 'question'}", {"prompt": "question"}),
  ],
)
def test_overrides_are_read_as_the_type_of_their_key(key, text, value):
  config = schema.load("", {key: text} | ({"optimizer.warmup_steps": "0"} if key == "train.steps" else {}))
  section, _, name = key.partition(".")
  found = config[section][name]
  assert (found.to_dict() if isinstance(value, dict) else found) == value
  assert type(found) is type(value) or isinstance(value, dict)


def test_column_can_be_named_alone():
  assert schema.load("", {"data.columns.prompt": "question"}).data.columns.prompt == "question"


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (
      {"optimizer.learning_rat": "1"},
      "unknown config key 'optimizer.learning_rat'; did you mean optimizer.learning_rate",
    ),
    ({"lerning_rate": "1"}, "unknown config key 'lerning_rate'; did you mean optimizer.learning_rate"),
    ({"xyz": "1"}, "unknown config key 'xyz'; see medjax/config.py"),
    ({"mesh": "1"}, "config key 'mesh' is a section; set one of mesh.data"),
    ({"train.steps": "ten"}, "config.train.steps is 'ten'; it must be a whole number"),
    ({"train.steps": "1.5"}, "config.train.steps is 1.5; it must be a whole number"),
    ({"seed": True}, "config.seed is True; it must be a whole number"),
    ({"optimizer.clip_norm": "none"}, "config.optimizer.clip_norm is 'none'; it must be a number"),
    ({"model.path": 3}, "config.model.path is 3; it must be text"),
    ({"model.path": ""}, "config.model.path is ''"),
    ({"method": "dop"}, "config.method is 'dop'; it must be one of base, sft, dpo; did you mean dpo?"),
    ({"model.dtype": "float16"}, "config.model.dtype is 'float16'; it must be one of auto, float32, bfloat16"),
    (
      {"model.attention": "flash"},
      "config.model.attention is 'flash'; it must be one of auto, xla, pallas, splash, cudnn",
    ),
    ({"model.max_length": "1"}, "config.model.max_length is 1"),
    ({"data.too_long": "cut"}, "config.data.too_long is 'cut'; it must be one of cut_prompt, drop, error"),
    ({"data.max_prompt": "-1"}, "config.data.max_prompt is -1; it must be at least 0"),
    ({"train.batch_size": "0"}, "config.train.batch_size is 0; it must be at least 1"),
    ({"train.row_length": "1"}, "config.train.row_length is 1; it must be at least 2"),
    ({"train.epochs": "0"}, "config.train.epochs is 0.0; it must be more than 0"),
    ({"train.epochs": float("nan")}, "config.train.epochs is nan; it must be more than 0"),
    ({"optimizer.learning_rate": "-1e-5"}, "config.optimizer.learning_rate is -1e-05; it must be more than 0"),
    ({"optimizer.learning_rate": float("inf")}, "config.optimizer.learning_rate is inf"),
    (
      {"train.steps": "5", "optimizer.warmup_steps": "6"},
      "optimizer.warmup_steps is 6; it must be at most train.steps = 5",
    ),
    ({"preference.beta": "0"}, "config.preference.beta is 0.0; it must be more than 0"),
    ({"preference.label_smoothing": "0.1"}, "config.preference.label_smoothing is 0.1; it must be 0 unless .* is cdpo"),
    ({"preference.label_smoothing": "0.5"}, "config.preference.label_smoothing is 0.5; it must be at least 0 and less"),
    (
      {"preference.label_smoothing": "-0.1", "preference.loss": "robust"},
      "label_smoothing is -0.1; it must be at least",
    ),
    ({"preference.gamma": "0.5"}, "preference.gamma is 0.5; it must be left at 1.0 unless .*loss is simpo"),
    ({"preference.gamma": "-1", "preference.loss": "simpo"}, "preference.gamma is -1.0; it must be at least 0"),
    ({"preference.sft_weight": "-1"}, "preference.sft_weight is -1.0; it must be at least 0"),
    ({"preference.sft_weight": "1", "preference.loss": "kto"}, "sft_weight is 1.0; it must be 0 with .*loss = kto"),
    ({"preference.sft_weight": "1", "preference.loss": "orpo"}, "sft_weight is 1.0; it must be 0 with .*loss = orpo"),
    (
      {"preference.reference": "live", "preference.loss": "simpo"},
      "preference.reference is 'live'; it must be left at precomputed with .*loss = simpo, which has no reference",
    ),
    ({"optimizer.name": "adam"}, "config.optimizer.name is 'adam'.*did you mean adamw?"),
    ({"optimizer.name": "adafactor", "optimizer.moments": "bfloat16"}, "moments is 'bfloat16'; it must be float32"),
    ({"preference.loss": "sigmoidal"}, "config.preference.loss is 'sigmoidal'.*did you mean sigmoid?"),
    (
      {"method": "dpo", "preference.pairs": "given"},
      "config.preference.pairs is 'given'; it must be task, unless data.source",
    ),
    ({"preference.pairs": "tsak"}, "pairs is 'tsak'; it must be task, given, or the path of a .jsonl.*mean task?"),
    ({"mesh.data": "0"}, "config.mesh.data is 0; it must be -1"),
    ({"mesh.data": "-1"}, "config.mesh is .*; it must be a size of -1 .* on one axis at most"),
    ({"data.columns.prompt": "''"}, None),
    ({"data.columns": {"prompt": 3}}, "config.data.columns.prompt is 3; it must be the name of a column"),
    ({"study.methods": ()}, r"config.study.methods is \(\); it must be one or more of"),
    ({"study.methods": "sftt"}, "config.study.methods is 'sftt'.*did you mean sft?"),
    ({"study.methods": "dpo,dpo_from_base"}, "must be without one of dpo and dpo_from_base"),
    ({"study.grid": {"few_shot": ({},)}}, "grid\\['few_shot'\\] is .*; it must be left out: few_shot trains nothing"),
    (
      {"study.grid": {"kto": ({"preference.sft_weight": 1.0},)}},
      "grid\\['kto'\\]: .*0 with config.preference.loss = kto",
    ),
    ({"study.grid": {"dpo": ({"preference.gamma": 2.0},)}}, "grid\\['dpo'\\]: .*loss is simpo"),
    ({"study.seeds": "0,0"}, r"config.study.seeds is \(0, 0\); it must be .* each once"),
    ({"study.tasks": (1,)}, r"config.study.tasks is \(1,\); it must be names of tasks"),
    ({"study.grid": {"dp": ()}}, r"config.study.grid\['dp'\] is 'dp'; it must be named METHOD or TASK/METHOD"),
    ({"study.grid": {"sft": {"train.steps": 1}}}, r"config.study.grid\['sft'\] is .*; it must be a tuple or list"),
    ({"study.grid": {"sft": (1,)}}, r"config.study.grid\['sft'\] is \(1,\); it must be a tuple of mappings"),
    ({"study.grid": {"sft": ({"seed": 1},)}}, r"config.study.grid\['sft'\] is 'seed'; it must be a key other than"),
    ({"study.grid": {"sft": ({"train.stps": 1},)}}, r"config.study.grid\['sft'\]: unknown config key 'train.stps'"),
    (
      {"study.grid": {"a/dpo": ({"preference.beta": -1},)}},
      r"config.study.grid\['a/dpo'\]: config.preference.beta is -1",
    ),
  ],
)
def test_what_cannot_be_run_is_refused_in_one_line(overrides, message):
  if message is None:
    assert schema.load("", overrides).data.columns.prompt == "''"
    return
  with pytest.raises(UserError, match=message) as error:
    schema.load("", overrides)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({}, "neither config.task nor config.data.source is set"),
    ({"method": "dpo", "data.source": "a.jsonl"}, "config.method = 'dpo' has no preference pairs"),
  ],
)
def test_stage_without_data_is_refused(overrides, message):
  with pytest.raises(UserError, match=message):
    schema.validate_data(schema.load("", overrides))


def test_stage_with_data_is_accepted():
  schema.validate_data(schema.load("", {"method": "dpo", "data.source": "a.jsonl", "preference.pairs": "given"}))
  schema.validate_data(schema.load("", {"method": "dpo", "task": "triage"}))


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (
      "def get_config():\n  c = base_config()\n  c.optimizer.lerning_rate = 1\n  return c",
      "line 4: unknown config key 'lerning_rate'; did you mean optimizer.learning_rate",
    ),
    (
      "def get_config():\n  c = base_config()\n  c.optimiser.name = 'adamw'\n  return c",
      "line 4: unknown config key 'optimiser'",
    ),
    (
      "def get_config():\n  c = base_config()\n  c.train.steps = 'x'\n  return c",
      "line 4: key 'steps' must be int, not str",
    ),
    ("def get_config():\n  return base_config(", "line 3: SyntaxError"),
    ("import nothing_of_that_name", "line 2: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    ("config = base_config()", "has no get_config"),
    ("def get_config():\n  return {}", "returned dict, not a ConfigDict"),
    (
      "def get_config():\n  c = base_config()\n  with c.unlocked():\n    c.extra = 1\n  return c",
      "unknown config key 'extra'",
    ),
    (
      "def get_config():\n  c = base_config()\n  with c.unlocked():\n    del c.seed\n  return c",
      "config key 'seed' is missing",
    ),
    ("def get_config():\n  c = base_config()\n  c.seed = -1\n  return c", "config.seed is -1; it must be at least 0"),
  ],
)
def test_broken_config_files_are_refused_with_the_line(tmp_path, text, message):
  with pytest.raises(UserError, match=message) as error:
    schema.load(write(tmp_path, text))
  assert "\n" not in str(error.value)


def test_config_file_takes_its_argument_and_overrides_win(tmp_path):
  text = "def get_config(size='s'):\n  c = base_config()\n  c.task = size\n  c.seed = 4\n  return c"
  path = write(tmp_path, text)
  assert schema.load(path).task == "s"
  config = schema.load(f"{path}:large", {"seed": "7"})
  assert (config.task, config.seed) == ("large", 7)


def test_argument_for_a_config_without_one_is_refused(tmp_path):
  with pytest.raises(UserError, match="takes no argument; drop ':x'"):
    schema.load(write(tmp_path, "def get_config():\n  return base_config()") + ":x")


def test_missing_config_file_suggests_a_neighbour(tmp_path):
  write(tmp_path, "")
  with pytest.raises(UserError, match=r"mne.py does not exist; did you mean .*mine.py\?"):
    schema.load(str(tmp_path / "mne.py"))


def test_json_round_trip_keeps_every_value():
  grid = {"sft": ({"optimizer.learning_rate": 1e-4}, {}), "triage/dpo": ({"preference.beta": 0.3},)}
  config = schema.load(
    "", {"study.grid": grid, "data.columns": {"prompt": "q"}, "study.seeds": (1, 2), "task": "triage"}
  )
  again = schema.from_dict(json.loads(json.dumps(schema.as_dict(config))))
  assert again == config and schema.as_dict(again) == schema.as_dict(config)


def test_config_of_another_version_is_refused():
  values = schema.as_dict(schema.base_config())
  del values["train"]["row_length"]
  with pytest.raises(UserError, match="config lacks the key 'train.row_length'"):
    schema.from_dict(values)


def test_overrides_leave_the_original_alone():
  config = schema.base_config()
  schema.with_overrides(config, {"seed": 3, "study.grid": {"sft": ({"train.epochs": 1.0},)}, "data.columns.id": "x"})
  assert config == schema.base_config()


def test_loaded_config_is_locked():
  with pytest.raises(AttributeError):
    schema.load("").train.stesp = 3


def test_losses_of_the_schema_are_those_of_the_table():
  assert config_checks.CHOICES["preference.loss"] == tuple(preference.LOSSES)
  assert config_checks.REFERENCE_FREE == preference.REFERENCE_FREE


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load(path):
  config = schema.load(str(path))
  assert schema.from_dict(schema.as_dict(config)) == config
