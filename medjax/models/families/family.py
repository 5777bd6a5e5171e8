"""What a family of models is: how its config.json is read and written, and what its GGUF files look like."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from medjax.errors import UserError
from medjax.models.config import LinearScaling, Llama3Scaling, LongRopeScaling, ModelConfig, RopeScaling, YarnScaling

Hf = Any  # a config object of transformers, with every default filled in


@dataclasses.dataclass(frozen=True)
class Gguf:
  """What llama.cpp's files of a family look like.

  Attributes:
    architecture: `general.architecture`.
    interleaved: whether the rows of queries and keys are written with the two halves of each head interleaved.
    variant: (metadata of the architecture, sizes read so far) -> the other fields of the ModelConfig.
    names: our names of tensors (without layer and `.weight`) that have others than in `models.gguf`.
  """

  architecture: str
  interleaved: bool = False
  variant: Callable[[Mapping[str, Any], ModelConfig], dict[str, Any]] = lambda metadata, config: {}
  names: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Family:
  """A family of models; one file of `models.families` defines one.

  Attributes:
    name: `model_type` of its config.json.
    architecture: the class of transformers.
    read: config of transformers -> fields of the ModelConfig beyond sizes and rotary positions.
    write: ModelConfig -> keys of config.json beyond the sizes.
    presets: shapes of published models by name.
    gguf: its GGUF files.
    fused: whether queries, keys and values are one tensor, and gate and up another.
  """

  name: str
  architecture: str
  read: Callable[[Hf], dict[str, Any]]
  write: Callable[[ModelConfig], dict[str, Any]]
  presets: Mapping[str, ModelConfig]
  gguf: Gguf
  fused: bool = False


def rope_from_hf(rope: Mapping[str, Any], hf: Hf, rotated: int) -> tuple[float, RopeScaling | None]:
  """(theta, scaling) of `rope_parameters`, as transformers' modeling_rope_utils.py computes what is left out.

  Raises:
    UserError: a kind of scaling that medjax does not have, or a list of factors that does not fit; without the file.
  """
  theta, kind = float(rope["rope_theta"]), rope.get("rope_type", "default")
  if kind == "default":
    return theta, None
  if kind == "linear":
    return theta, LinearScaling(float(rope["factor"]))
  if kind not in ("llama3", "yarn", "longrope"):
    raise UserError(f"rope_type = {kind!r} is not supported; medjax has default, linear, llama3, yarn and longrope")
  original = int(rope.get("original_max_position_embeddings") or hf.max_position_embeddings)
  if kind == "llama3":
    scaling = Llama3Scaling(
      float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"]), original
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
      raise UserError(f"high_freq_factor = {scaling.high_freq_factor} must be above low_freq_factor")
    return theta, scaling
  factor = float(rope.get("factor") or hf.max_position_embeddings / original)
  if kind == "yarn":
    return theta, YarnScaling(
      factor,
      original,
      _yarn_attention_factor(rope, factor),
      float(rope.get("beta_fast") or 32),
      float(rope.get("beta_slow") or 1),
      bool(rope.get("truncate", True)),
    )
  short, long = (tuple(map(float, rope[key])) for key in ("short_factor", "long_factor"))
  if not len(short) == len(long) == rotated // 2:
    raise UserError(
      f"short_factor and long_factor have {len(short)} and {len(long)} entries; {rotated // 2} are needed"
    )
  attention_factor = rope.get("attention_factor")
  if attention_factor is None:
    attention_factor = longrope_attention_factor(factor, original)
  return theta, LongRopeScaling(short, long, original, float(attention_factor))


def longrope_attention_factor(factor: float, original_max_positions: int) -> float:
  """sqrt(1 + ln s / ln n) for a context n stretched to s n (LongRoPE, arXiv 2402.13753, sec. 3.3)."""
  return math.sqrt(1 + math.log(factor) / math.log(original_max_positions)) if factor > 1 else 1.0


def yarn_scale(factor: float, multiplier: float = 1.0) -> float:
  """0.1 m ln s + 1 (YaRN, arXiv 2309.00071, eq. 22, with DeepSeek's multiplier m)."""
  return 0.1 * multiplier * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn_attention_factor(rope: Mapping[str, Any], factor: float) -> float:
  if rope.get("attention_factor") is not None:
    return float(rope["attention_factor"])
  mscale, of_all = rope.get("mscale"), rope.get("mscale_all_dim")
  return yarn_scale(factor, mscale) / yarn_scale(factor, of_all) if mscale and of_all else yarn_scale(factor)


def rope_to_hf(config: ModelConfig) -> dict[str, Any]:
  """`rope_parameters` of transformers 5, and the keys that older readers look for."""
  parameters = scaling_to_hf(config.rope_scaling)
  if config.rotary_width is not None:
    parameters["partial_rotary_factor"] = config.rotary_width / config.head_width
  older = {"rope_scaling": None if config.rope_scaling is None else dict(parameters)}
  return {"rope_parameters": {"rope_theta": config.rope_theta, **parameters}, "rope_theta": config.rope_theta, **older}


def scaling_to_hf(scaling: RopeScaling | None) -> dict[str, Any]:
  """The keys of `rope_parameters` that say how frequencies are scaled."""
  match scaling:
    case None:
      return {"rope_type": "default"}
    case LinearScaling(factor):
      return {"rope_type": "linear", "factor": factor}
    case Llama3Scaling(factor, low, high, original):
      return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
      }
    case YarnScaling(factor, original, attention_factor, beta_fast, beta_slow, truncate):
      return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        "attention_factor": attention_factor,
        "beta_fast": beta_fast,
        "beta_slow": beta_slow,
        "truncate": truncate,
      }
    case LongRopeScaling(short, long, original, attention_factor):
      return {
        "rope_type": "longrope",
        "short_factor": list(short),
        "long_factor": list(long),
        "original_max_position_embeddings": original,
        "attention_factor": attention_factor,
      }


_LAYER_TYPES = {"full_attention": "global", "sliding_attention": "sliding"}


def windows_from_hf(hf: Hf) -> dict[str, Any]:
  """`pattern` and `sliding_window` of a config with `layer_types`."""
  unknown = set(hf.layer_types) - _LAYER_TYPES.keys()
  if unknown:
    raise UserError(f"layer_types has {sorted(unknown)}; medjax has {' and '.join(_LAYER_TYPES)}")
  if "sliding_attention" in hf.layer_types and hf.sliding_window is None:
    raise UserError("layer_types has sliding_attention, and sliding_window is missing; give the window in positions")
  pattern = shortest_pattern([_LAYER_TYPES[kind] for kind in hf.layer_types])
  return {"pattern": pattern, "sliding_window": hf.sliding_window if pattern else None}


def windows_to_hf(config: ModelConfig) -> dict[str, Any]:
  """`layer_types` and `sliding_window`."""
  names = {kind: name for name, kind in _LAYER_TYPES.items()}
  return {"sliding_window": config.sliding_window, "layer_types": [names[kind] for kind in config.layer_kinds]}


def shortest_pattern(kinds: list[str]) -> tuple[str, ...]:
  """The shortest list that, repeated and cut, gives `kinds`; empty where all are global."""
  if set(kinds) == {"global"}:
    return ()
  return next(
    tuple(kinds[:size])
    for size in range(1, len(kinds) + 1)
    if all(kind == kinds[place % size] for place, kind in enumerate(kinds))
  )
