"""Rotary positions (Su et al. 2021, arXiv 2104.09864), and the ways in which families scale their frequencies."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from medjax.arrays import Array
from medjax.models.config import (
  NOPE,
  LinearScaling,
  Llama3Scaling,
  LongRopeScaling,
  ModelConfig,
  YarnScaling,
)

Tables = tuple[Float[Array, "B T 1 R"], Float[Array, "B T 1 R"]]


def rope_tables(
  positions_BT: Int[Array, "B T"], extents_BT: Int[Array, "B T"] | None, config: ModelConfig, kind: str
) -> Tables:
  """Cosines and sines of each position's R angles, float32, with an axis for the heads.

  Args:
    positions_BT: places in the sequence, from 0.
    extents_BT: how long the sequence is that each token is in; None where `config.turn` is.
    config: the decoder's; R is half of `config.rotated`.
    kind: of the layer; `nope` gives the rotation by 0.
  """
  frequencies, factor = frequencies_of(config, kind)
  _, scaling = config.rotary(kind)
  chosen_BT1R = frequencies[None, None, None, :]
  if isinstance(scaling, LongRopeScaling) and kind != NOPE:
    long = frequencies * np.divide(scaling.short_factors, scaling.long_factors)
    is_long_BT = extents_BT > scaling.original_max_positions
    chosen_BT1R = jnp.where(is_long_BT[..., None, None], long[None, None, None, :], chosen_BT1R)
  angles_BT1R = positions_BT[:, :, None, None].astype(jnp.float32) * chosen_BT1R.astype(jnp.float32)
  return jnp.cos(angles_BT1R) * factor, jnp.sin(angles_BT1R) * factor


def sequence_extents(positions_BT: Int[Array, "B T"], segments_BT: Int[Array, "B T"]) -> Int[Array, "B T"]:
  """How many tokens up to the last position of its segment's longest branch stand there, for each token.

  The keys of a prompt have one set of frequencies, so that its branches are all long or all short (`Segments.sharing`).
  """
  B, T = positions_BT.shape
  rows_B1 = jnp.arange(B)[:, None]
  longest_BG = jnp.zeros((B, T + 1), jnp.int32).at[rows_B1, segments_BT].max(positions_BT + 1)
  return jnp.take_along_axis(longest_BG, segments_BT, axis=1)


def frequencies_of(config: ModelConfig, kind: str) -> tuple[Float[np.ndarray, "R"], float]:
  """Frequencies of a kind of layer in radians a position, float64, and what cosines and sines are multiplied by.

  LongRoPE's are those of short sequences.
  """
  exponents = np.arange(0, config.rotated, 2) / config.rotated
  if kind == NOPE:
    return np.zeros_like(exponents), 1.0
  theta, scaling = config.rotary(kind)
  frequencies = theta**-exponents
  match scaling:
    case None:
      return frequencies, 1.0
    case LinearScaling(factor):
      return frequencies / factor, 1.0
    case Llama3Scaling():
      return _llama3(frequencies, scaling), 1.0
    case YarnScaling():
      return _yarn(frequencies, scaling, theta), scaling.attention_factor
    case LongRopeScaling():
      return frequencies / np.asarray(scaling.short_factors), scaling.attention_factor


def _llama3(frequencies: np.ndarray, scaling: Llama3Scaling) -> np.ndarray:
  """Llama 3's rule.

  Wavelengths longer than `original / low_freq_factor` are stretched by `factor`, those shorter than
  `original / high_freq_factor` stay, and between them the two are blended linearly in `original / wavelength`.
  """
  turns = scaling.original_max_positions * frequencies / (2 * math.pi)
  blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
  blend = np.clip(blend, 0.0, 1.0)
  return frequencies * (blend + (1.0 - blend) / scaling.factor)


def _yarn(frequencies: np.ndarray, scaling: YarnScaling, theta: float) -> np.ndarray:
  """YaRN, arXiv 2309.00071, sec. 3.2 ("NTK-by-parts").

  Frequencies that turn more than `beta_fast` times in the original context stay, those that turn less than `beta_slow`
  times are divided by `factor`; between them a ramp over the frequency's index blends the two.
  """
  rotated = 2 * len(frequencies)

  def index_of(turns: float) -> float:
    span = math.log(scaling.original_max_positions / (turns * 2 * math.pi))
    return rotated * span / (2 * math.log(theta))

  low, high = index_of(scaling.beta_fast), index_of(scaling.beta_slow)
  if scaling.truncate:
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, rotated - 1)
  ramp = np.clip((np.arange(len(frequencies)) - low) / max(high - low, 0.001), 0.0, 1.0)
  return frequencies * (1.0 - ramp) + frequencies / scaling.factor * ramp


def apply_rope(x_BTHE: Float[Array, "B T H E"], tables: Tables) -> Float[Array, "B T H E"]:
  """Rotates the first R columns of each head against the next R (Hugging Face's convention); others stay."""
  cos, sin = tables
  R = cos.shape[-1]
  first, second = x_BTHE[..., :R].astype(jnp.float32), x_BTHE[..., R : 2 * R].astype(jnp.float32)
  turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BTHE.dtype)
  return turned if 2 * R == x_BTHE.shape[-1] else jnp.concatenate([turned, x_BTHE[..., 2 * R :]], axis=-1)
