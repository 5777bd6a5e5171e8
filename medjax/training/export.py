"""Weights out: a Hugging Face directory, or an adapter as PEFT loads it."""

import functools
import math
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from medjax import files
from medjax.errors import UserError
from medjax.models import lora as adapters
from medjax.models import peft
from medjax.models.families import config_to_hf, tensor_slots, text_config
from medjax.models.gguf import GgufFile
from medjax.models.pretrained import Description, directory_slots, load_config_and_tokenizer, read_json
from medjax.models.slots import Slot
from medjax.training import checkpoints, mesh, model_card
from medjax.training.policy import LoadedPolicy, load_policy

SHARD_BYTES = 4 * 2**30
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}

# Of a model's directory: its tokenizer as it is, how it generates, and what its licence says.
_COPIED = (
  "tokenizer*",
  "tekken.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template*",
)
_OF_MODEL = ("generation_config.json", "LICENSE*", "NOTICE*", "USE_POLICY*")


def export(
  checkpoint: str,
  output: pathlib.Path,
  dtype: str = "",
  advance: Callable[[int, int], None] = lambda done, total: None,
) -> None:
  """Writes a model directory that transformers and vLLM load: adapters merged, tensors in safetensors shards.

  Args:
    checkpoint: a workdir or checkpoint of `medjax train`, or a model (a GGUF file becomes a directory).
    output: the directory to make; it appears when it is whole.
    dtype: `float32`, `bfloat16` or `float16`; empty: the dtype that the base model stores each tensor in (float32 for
      what it stores quantized).
    advance: told how many tensors of how many are written.

  Raises:
    UserError: nothing to export, or something is where the output should be.
  """
  _refuse_existing(output)
  described = _described(checkpoint)
  stored = stored_dtypes(described)
  policy = load_policy(checkpoint, _devices(described), _loaded_dtype(stored))
  kept = {name: DTYPES[dtype] for name in stored} if dtype else stored
  with files.folder_aside(output) as folder:
    # What is quick comes first, so that what cannot be written shows before the weights are.
    (folder / "README.md").write_text(model_card.render(checkpoint, policy, output.name), encoding="utf-8")
    _write_tokenizer(described, folder)
    _copy(described.files, _OF_MODEL, folder)
    files.write_json(folder / "config.json", _config_json(described, kept))
    if not (folder / "generation_config.json").is_file():
      files.write_json(folder / "generation_config.json", _generation_json(described))
    _write_weights(policy, kept, folder, advance)


def export_adapter(checkpoint: str, output: pathlib.Path, base: str = "") -> None:
  """Writes the adapters of a checkpoint as PEFT loads them.

  Args:
    checkpoint: a workdir or checkpoint of `medjax train` with `lora.rank`.
    output: the directory to make.
    base: name of the base model for whoever loads the adapter; empty: the one that it was trained on.

  Raises:
    UserError: the checkpoint has no adapters, or PEFT could not load what they are added to.
  """
  _refuse_existing(output)
  identity = checkpoints.load_identity(checkpoint) if checkpoints.is_checkpoint(checkpoint) else {}
  if "base" not in identity:
    raise UserError(f"{checkpoint} has no adapters (lora.rank = 0); export it without --adapter")
  trained_on = identity["base"]
  if checkpoints.is_checkpoint(trained_on) and not base:
    raise UserError(
      f"{checkpoint}: its adapters are added to weights that were trained in {trained_on}; export it without "
      "--adapter, or export those weights first and name them as --base"
    )
  saved = checkpoints.load_params(checkpoint)[0]
  described = load_config_and_tokenizer(identity["config"]["model"]["path"])
  name = base or _base_name(trained_on, described)
  lora, prefix = checkpoints.lora_of(identity["config"]), _transformers_prefix(described)
  tensors, config = peft.to_peft(jax.device_get(saved), lora, described.config, name, prefix)
  policy = LoadedPolicy({}, saved, lora, described=described, identity=identity)
  with files.folder_aside(output) as folder:
    _write_tokenizer(described, folder)
    _save(tensors, folder / peft.TENSORS)
    files.write_json(folder / peft.CONFIG, config)
    card = model_card.render(checkpoint, policy, output.name, adapter_of=name)
    (folder / "README.md").write_text(card, encoding="utf-8")


def stored_dtypes(described: Description) -> dict[str, np.dtype]:
  """The dtype that a model's files store each tensor of its Hugging Face form in, float32 for what is quantized."""
  slots = tensor_slots(described.config)
  if described.files.is_dir():
    theirs, holders = directory_slots(described.files, described.config)
    names = {ours.tensor: their.tensor for ours, their in zip(slots, theirs, strict=True)}
    return {name: holders[there].dtypes[there] for name, there in names.items()}
  file = GgufFile(described.files)
  kinds = {kind for name, kind in file.kinds.items() if len(file.shapes[name]) > 1}
  of_kind = {"F16": np.dtype(np.float16), "BF16": DTYPES["bfloat16"]}
  stored = of_kind.get(kinds.pop(), DTYPES["float32"]) if len(kinds) == 1 else DTYPES["float32"]
  return {slot.tensor: stored for slot in slots}


def _described(checkpoint: str) -> Description:
  if not checkpoints.is_checkpoint(checkpoint):
    return load_config_and_tokenizer(checkpoint, weights=True)
  return load_config_and_tokenizer(checkpoints.load_identity(checkpoint)["config"]["model"]["path"], weights=True)


def _loaded_dtype(stored: dict[str, np.dtype]) -> str:
  """bfloat16 where that loses nothing, else float32."""
  return "bfloat16" if set(stored.values()) == {DTYPES["bfloat16"]} else "float32"


def _devices(described: Description) -> Any:
  """All devices of this machine, parameters cut over them; None where the width does not divide."""
  devices = mesh.make_mesh({"data": 1, "fsdp": -1, "tensor": 1, "sequence": 1})
  return devices if described.config.width % devices.size == 0 else None


def _refuse_existing(output: pathlib.Path) -> None:
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise UserError(f"{output} exists; remove it or give another --output")


def _write_weights(policy: LoadedPolicy, stored: dict[str, np.dtype], folder: pathlib.Path, advance) -> None:
  """Shards of at most `SHARD_BYTES`, one in memory at a time."""
  of_tensor: dict[str, list[Slot]] = {}
  for slot in tensor_slots(policy.described.config):
    of_tensor.setdefault(slot.tensor, []).append(slot)
  shards = list(_planned_shards({name: slots[0].shape for name, slots in of_tensor.items()}, stored))
  weight_map, done, total = {}, 0, 0
  for number, names in enumerate(shards, start=1):
    file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
    tensors = {}
    for name in names:
      rows = [slot.rows_of(_value(policy, slot)) for slot in of_tensor[name]]
      tensors[name] = _cast(np.concatenate(rows) if len(rows) > 1 else rows[0], stored[name], name)
      done += 1
      advance(done, len(of_tensor))
    _save(tensors, folder / file)
    weight_map |= dict.fromkeys(names, file)
    total += sum(x.nbytes for x in tensors.values())
  if len(shards) > 1:
    files.write_json(
      folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def _save(tensors: dict[str, np.ndarray], path: pathlib.Path) -> None:
  save_file(tensors, path, metadata={"format": "pt"})
  path.chmod(path.parent.stat().st_mode & 0o666)  # the package makes files for the owner alone


def _cast(values: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
  with np.errstate(over="ignore"):
    cast = np.ascontiguousarray(values, dtype)
  if dtype == np.float16 and not np.isfinite(cast).all() and np.isfinite(values).all():
    raise UserError(f"tensor {name} has values beyond float16; export in bfloat16 or float32 (--dtype)")
  return cast


def _planned_shards(shapes: dict[str, tuple[int, ...]], stored: dict[str, np.dtype]) -> Iterator[list[str]]:
  names, size = [], 0
  for name, shape in shapes.items():
    bytes_ = math.prod(shape) * stored[name].itemsize
    if names and size + bytes_ > SHARD_BYTES:
      yield names
      names, size = [], 0
    names.append(name)
    size += bytes_
  yield names


def _value(policy: LoadedPolicy, slot: Slot) -> np.ndarray:
  """The parameter of one layer, its adapter merged."""
  node = functools.reduce(lambda tree, key: tree[key], slot.path[:-1], policy.params)
  if slot.layer is None:
    return jax.device_get(node[slot.path[-1]])
  if slot.path[-1] != "kernel":
    return jax.device_get(node[slot.path[-1]][slot.layer])
  one = {key: x[slot.layer] for key, x in node.items()}
  return jax.device_get(adapters.merged_kernel(one, slot.path[-2], policy.lora.scale if policy.lora else 0.0))


def _config_json(described: Description, stored: dict[str, np.dtype]) -> dict[str, Any]:
  """The base model's own config.json (of its text part); made from the ModelConfig where its files have none."""
  if described.files.is_dir():
    values = text_config(read_json(described.files / "config.json"))
    values.pop("auto_map", None)  # code that does not come along
  else:
    values = config_to_hf(described.config) | _generation_json(described)
  values.pop("torch_dtype", None)
  return {**values, "dtype": max(set(stored.values()), key=list(stored.values()).count).name}


def _generation_json(described: Description) -> dict[str, Any]:
  ends = list(described.eos_ids)
  found = {"eos_token_id": ends[0] if len(ends) == 1 else ends} if ends else {}
  if described.tokenizer is not None:
    for key in ("bos_token_id", "pad_token_id"):
      if getattr(described.tokenizer, key) is not None:
        found[key] = getattr(described.tokenizer, key)
  return found


def _write_tokenizer(described: Description, folder: pathlib.Path) -> None:
  if described.tokenizer_files.is_dir():
    _copy(described.tokenizer_files, _COPIED, folder)
  elif described.tokenizer is not None:
    described.tokenizer.save_pretrained(folder)


def _copy(source: pathlib.Path, patterns: tuple[str, ...], folder: pathlib.Path) -> None:
  """Copies the files of a directory that match; nothing where it is none."""
  for pattern in patterns:
    for path in source.glob(pattern) if source.is_dir() else ():
      if path.is_file():
        shutil.copyfile(path, folder / path.name)


def _base_name(trained_on: str, described: Description) -> str:
  path = pathlib.Path(trained_on)
  if not described.files.is_dir() or (path.is_dir() and peft.is_adapter(path)):
    raise UserError(
      f"{trained_on} is no model that PEFT could load; export it merged, or give the model it was made from as --base"
    )
  return str(path.absolute()) if path.is_dir() else re.sub("^(hf|cached):", "", trained_on)


def _transformers_prefix(described: Description) -> str:
  """What modules of the base model's decoder are called in transformers."""
  if not described.files.is_dir():
    return "model."
  architecture = (read_json(described.files / "config.json").get("architectures") or [""])[0]
  return "model.language_model." if architecture.endswith("ForConditionalGeneration") else "model."
