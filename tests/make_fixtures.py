"""Records what transformers computes on tiny models: python tests/make_fixtures.py.

Weights are drawn from their names (tests/models/reference_models.py), so that only the results are kept:
tests/fixtures/parity_CASE.npz with the logits at real positions, the norm of each gradient, and greedy tokens.
"""

import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "models"))

import reference_models as reference  # noqa: E402


def main():
  for case in reference.CASES:
    model = reference.torch_model(case)
    tokens, mask = reference.batch("right")
    logits = reference.torch_logits(model, tokens, mask).detach().numpy()
    gradients = reference.torch_gradients(model, tokens, mask)
    names = sorted(gradients)
    path = HERE / "fixtures" / f"parity_{case}.npz"
    np.savez_compressed(
      path,
      logits=logits[mask == 1],
      names=names,
      shapes=[str(gradients[name].shape) for name in names],
      gradient_norms=[np.linalg.norm(gradients[name]) for name in names],
      greedy=[reference.torch_greedy(model, prompt) for prompt in reference.PROMPTS],
    )
    print(path, path.stat().st_size)


if __name__ == "__main__":
  main()
