"""Which kernel of attention runs: what each needs, and the choice among them."""

import functools

import jax
from absl import logging

from medjax.errors import UserError
from medjax.models import sharding
from medjax.models.config import ModelConfig

_ORDER = ("splash", "pallas", "cudnn", "xla")  # `auto` is the first that can run


def choose(name: str, config: ModelConfig, dtype: str, plain_rows: bool = False) -> str:
  """The kernel that `model.attention` stands for on the devices of the mesh in use, logged once.

  Args:
    name: `auto`, or a kernel.
    config: of the model.
    dtype: compute dtype.
    plain_rows: whether each prompt of a row has one completion: segments are all there is to the mask rule.

  Raises:
    UserError: the kernel cannot run here.
  """
  return _choose(name, config, dtype, plain_rows, sharding.platform(), sharding.tokens_are_split())


@functools.cache
def _choose(name: str, config: ModelConfig, dtype: str, plain_rows: bool, platform: str, split: bool) -> str:
  if name not in ("auto", *_ORDER):
    raise UserError(f"model.attention is {name!r}; choose one of {', '.join(('auto', *_ORDER))}")
  needs = {
    "splash": _splash_needs(config, dtype, plain_rows, platform, split),
    "pallas": "" if platform == "tpu" else "a TPU",
    "cudnn": _cudnn_needs(config, dtype, platform),
    "xla": "",
  }
  can = [kernel for kernel in _ORDER if not needs[kernel]]
  if name == "auto":
    passed_over = [f"{kernel} needs {needs[kernel]}" for kernel in _ORDER[: _ORDER.index(can[0])]]
    logging.info("attention: %s%s", can[0], f" ({', '.join(passed_over)})" if passed_over else "")
    return can[0]
  if needs[name]:
    raise UserError(f"model.attention is {name!r}, which needs {needs[name]}; choose {' or '.join(('auto', *can))}")
  logging.info("attention: %s (as config.model.attention says)", name)
  return name


def _splash_needs(config: ModelConfig, dtype: str, plain_rows: bool, platform: str, split: bool) -> str:
  """What splash lacks here; empty where it can run."""
  if platform != "tpu":
    return "a TPU"
  if dtype != "bfloat16":
    return "model.dtype = bfloat16"  # its products round float32
  if not plain_rows:
    return "rows with one completion for each prompt (method = sft)"
  if config.sliding_window is not None:
    return "a model without sliding windows"
  return "rows that are whole on a device (mesh.sequence = 1)" if split else ""


def _cudnn_needs(config: ModelConfig, dtype: str, platform: str) -> str:
  """What cuDNN lacks here; empty where it can run."""
  capability = _compute_capability() if platform == "gpu" else 0.0
  if capability < 8:
    return "an NVIDIA GPU of compute capability 8.0 or later"
  if dtype != "bfloat16":
    return "model.dtype = bfloat16"
  if config.attention_softcap is not None:
    return "a model without a soft cap of its scores"
  widest = 256 if capability >= 9 else 128
  if config.head_width > widest or config.head_width % 8:
    return f"heads of at most {widest} columns, in eights"
  return ""


def _compute_capability() -> float:
  """Of the GPU here; 0 without one, and of one that is not by NVIDIA."""
  device = jax.devices()[0]
  if device.platform != "gpu":
    return 0.0
  version = device.compute_capability  # of ROCm a name, such as gfx90a
  return float(version) if version.replace(".", "").isdigit() else 0.0
