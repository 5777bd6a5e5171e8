"""Adapters in the format of PEFT: read and added to weights or taken over for training, and written.

A directory with `adapter_config.json` and `adapter_model.safetensors`; see the package peft (LoraConfig).
"""

import functools
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from medjax.errors import UserError
from medjax.models import lora as adapters
from medjax.models.config import ModelConfig
from medjax.models.families import tensor_slots
from medjax.models.lora import LoraConfig, Params
from medjax.models.slots import Slot, whole
from medjax.models.streaming import nested
from medjax.models.tensor_files import SafetensorsFile

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

# What changes what an adapter computes, and the values with which it computes what medjax does.
_PLAIN = {
  "bias": ("none",),
  "fan_in_fan_out": (False,),
  "lora_bias": (False,),
  "use_dora": (False,),
  "use_qalora": (False,),
  "use_bdlora": (None, False),
  "modules_to_save": (None, []),
  "layer_replication": (None, []),
  "target_parameters": (None, []),
  "trainable_token_indices": (None, [], {}),
  "alora_invocation_tokens": (None, []),
  "arrow_config": (None,),
  "kasa_config": (None,),
  # Others change the base model's weights when they are set up.
  "init_lora_weights": (True, False, "gaussian", "orthogonal", "mica"),
  "monteclora_config": (None,),
}
_NAME = re.compile(
  r"base_model\.model\.(?P<full>(?:model\.language_model\.|language_model\.model\.|model\.)(?P<module>layers\..+))"
  r"\.lora_(?P<side>[AB])(?:\.default)?\.weight"
)


def is_adapter(path: pathlib.Path) -> bool:
  """Whether a path is the directory of an adapter."""
  return (path / CONFIG).is_file() and not (path / "config.json").is_file()


def base_of(path: pathlib.Path) -> str:
  """The name of the model that an adapter belongs to."""
  values = _read_config(path)
  name, revision = values.get("base_model_name_or_path"), values.get("revision")
  if not isinstance(name, str) or not name:
    raise UserError(f"{path / CONFIG}: base_model_name_or_path is missing; set it to the adapter's base model")
  if is_adapter(pathlib.Path(name)):
    raise UserError(f"{path / CONFIG}: base_model_name_or_path = {name} is an adapter, too; merge that one first")
  return f"{name}@{revision}" if isinstance(revision, str) and revision and not pathlib.Path(name).exists() else name


class Adapter:
  """An adapter's matrices, in float32.

  Args:
    path: its directory.
    config: of the model that it belongs to.

  Raises:
    UserError: damaged, of another model, or with parts that medjax does not have (DoRA, biases, whole modules).
  """

  def __init__(self, path: pathlib.Path, config: ModelConfig):
    self.where = str(path / TENSORS)
    values = _read_config(path)
    for key, plain in _PLAIN.items():
      if values.get(key, plain[0]) not in plain:
        raise UserError(f"{path / CONFIG}: {key} = {values[key]!r} is not supported; medjax reads plain LoRA")
    if values.get("peft_type") != "LORA":
      raise UserError(f"{path / CONFIG}: peft_type = {values.get('peft_type')!r} is not supported; medjax reads LORA")
    self._values, self._full_names = values, {}
    if not (path / TENSORS).is_file():
      raise UserError(f"{path / TENSORS}: missing; save the adapter again as safetensors")
    self._slots: dict[str, list[Slot]] = {}
    for slot in tensor_slots(config):
      if slot.path[-1] == "kernel" and slot.layer is not None:
        self._slots.setdefault(slot.tensor.removeprefix("model.").removesuffix(".weight"), []).append(slot)
    self._matrices = self._read(SafetensorsFile(path / TENSORS))

  def _read(self, file: SafetensorsFile) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{module: (A [R, inputs], B [outputs, R])}."""
    sides: dict[str, dict[str, np.ndarray]] = {}
    for name, shape in file.shapes.items():
      match = _NAME.fullmatch(name)
      if not match or match["module"] not in self._slots:
        raise UserError(f"{self.where}: tensor {name} belongs to no linear layer of this model; medjax would lose it")
      self._full_names[match["module"]] = match["full"]
      sides.setdefault(match["module"], {})[match["side"]] = file.read(name, whole(shape)).astype(np.float32)
    matrices = {}
    for module, found in sides.items():
      a, b = (found.get(side, np.zeros(())) for side in "AB")
      rows, columns = self._slots[module][0].shape
      if a.ndim != 2 or b.ndim != 2 or a.shape[1] != columns or b.shape[0] != rows or a.shape[0] != b.shape[1]:
        raise UserError(
          f"{self.where}: {module} has lora_A {list(a.shape)} and lora_B {list(b.shape)}, but its weight is "
          f"[{rows}, {columns}]; adapter and model do not belong together"
        )
      matrices[module] = a, b
    if not matrices:
      raise UserError(f"{self.where}: holds no adapter; save it again")
    return matrices

  def _scale(self, module: str) -> float:
    """What B A of a module is multiplied by."""
    patterns, name = self._values.get("alpha_pattern") or {}, self._full_names[module]
    alpha = next(
      (x for pattern, x in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name)), self._values.get("lora_alpha")
    )
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
      raise UserError(f"{self.where}: lora_alpha = {alpha!r}; a number is needed")
    rank = self._matrices[module][0].shape[0]
    return alpha / (math.sqrt(rank) if self._values.get("use_rslora") else rank)

  def added_to(self, path: tuple[str, ...], layer: int | None, kernel: jax.Array) -> jax.Array:
    """The kernel of a layer, [1, ...], with the adapter added to it in its dtype; other parameters as they are."""
    for module, slots in self._slots.items():
      for slot in slots:
        if (slot.path, slot.layer) == (path, layer) and module in self._matrices:
          (a, b), scale = self._matrices[module], self._scale(module)
          (rows, columns), turn = slot.part(whole(slot.target))
          return _added(kernel, scale * (b[rows] @ a[:, columns]), turn)
    return kernel

  def params(self, lora: LoraConfig, layers: int) -> Params:
    """The adapter as the trainable tree of `lora`.

    Raises:
      UserError: rank, scale or layers are not those of `lora`; names the setting to change.
    """
    found: dict[tuple[str, ...], list[np.ndarray]] = {}
    for module, slots in self._slots.items():
      adapted = [slot for slot in slots if lora.adapts(slot.path[-2])]
      if len(adapted) != (len(slots) if module in self._matrices else 0):
        raise UserError(f"{self.where}: {module} has {'no' if adapted else 'an'} adapter; fit lora.targets to that")
      for slot in adapted:
        a, b = self._matrices[module]
        if a.shape[0] != lora.rank or not math.isclose(self._scale(module), lora.scale):
          raise UserError(
            f"{self.where}: {module} has rank {a.shape[0]} and scale {self._scale(module):g}; fit lora.rank, "
            "lora.alpha and lora.rslora to that"
          )
        rows = b[slot.start : slot.start + slot.rows]
        (outputs, inputs), base = slot.view, slot.path[:-1]
        found.setdefault((*base, adapters.A), []).append(a.T.reshape(*inputs, lora.rank))
        found.setdefault((*base, adapters.B), []).append(rows.T.reshape(lora.rank, *outputs))
    assert all(len(matrices) == layers for matrices in found.values())
    return nested({path: np.stack(matrices) for path, matrices in found.items()})


@functools.partial(jax.jit, static_argnames="turn", donate_argnums=0)
def _added(kernel, change, turn):
  return kernel + turn(change)[None]


def _read_config(path: pathlib.Path) -> dict[str, Any]:
  try:
    values = json.loads((path / CONFIG).read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path / CONFIG}: not JSON ({error}); save the adapter again") from error
  if not isinstance(values, dict):
    raise UserError(f"{path / CONFIG}: holds a {type(values).__name__}, not a JSON object; save the adapter again")
  return values


def to_peft(
  params: Params, lora: LoraConfig, config: ModelConfig, base: str, prefix: str = "model."
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """(tensors, adapter_config.json) of trained adapters.

  Where several of our kernels are one tensor of the family, their adapters become one of their ranks together: A one
  above the other, B on the diagonal, with the same product.

  Args:
    params: the adapters' tree, as numpy arrays.
    lora: what they are.
    config: of the base model.
    base: its name, for `base_model_name_or_path`.
    prefix: of the names of its tensors in transformers, see `pretrained.name_prefix`.
  """
  of_module: dict[str, list[Slot]] = {}
  for slot in tensor_slots(config, prefix):
    if slot.path[-1] == "kernel" and slot.layer is not None and lora.adapts(slot.path[-2]):
      of_module.setdefault(slot.tensor.removesuffix(".weight"), []).append(slot)
  tensors, ranks, alphas = {}, {}, {}
  for module, slots in of_module.items():
    R, count = lora.rank, len(slots)
    a = np.zeros((R * count, slots[0].shape[1]), np.float32)
    b = np.zeros((slots[0].shape[0], R * count), np.float32)
    for place, slot in enumerate(slots):
      layer = functools.reduce(lambda tree, key: tree[key], slot.path[:-1], params)
      part = slice(place * R, (place + 1) * R)
      a[part] = np.asarray(layer[adapters.A][slot.layer], np.float32).reshape(-1, R).T
      b[slot.start : slot.start + slot.rows, part] = (
        np.asarray(layer[adapters.B][slot.layer], np.float32).reshape(R, -1).T
      )
    tensors[f"base_model.model.{module}.lora_A.weight"] = a
    tensors[f"base_model.model.{module}.lora_B.weight"] = b
    if count > 1:
      name = module.rpartition(".")[2]
      ranks[name], alphas[name] = R * count, lora.alpha * (math.sqrt(count) if lora.rslora else count)
  names = sorted({module.rpartition(".")[2] for module in of_module})
  targets = names if prefix == "model." else rf".*{re.escape(prefix)}.*\.({'|'.join(names)})"
  return tensors, _written_config(lora, base, targets, ranks, alphas)


def _written_config(
  lora: LoraConfig, base: str, targets: list[str] | str, ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> dict[str, Any]:
  return {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "inference_mode": True,
    "r": lora.rank,
    "lora_alpha": lora.alpha,
    "lora_dropout": lora.dropout,
    "use_rslora": lora.rslora,
    "target_modules": targets,
    "rank_pattern": dict(ranks),
    "alpha_pattern": dict(alphas),
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
  }
