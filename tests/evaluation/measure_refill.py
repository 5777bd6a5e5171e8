"""What refilling the slots of ended answers is worth, on a toy of 4 layers and answers of unequal lengths.

Usage: PYTHONPATH=tests python tests/evaluation/measure_refill.py

The same 128 prompts are answered in 16 slots that are refilled, and in batches of 16 prompts of like length that each
wait for their longest answer. Answers are sampled, and the same in both. CPU times are medians of 7 runs, in turn.
"""

import time
from collections.abc import Callable

import jax
import numpy as np
import packed

from medjax.evaluation import decode
from medjax.models.config import ModelConfig

CONFIG = ModelConfig(512, 128, 4, 8, 4, 16, 384, max_positions=512)
EOS = tuple(range(16))  # of 512 nearly equally likely tokens: an answer has about 30
PROMPTS, SLOTS, MOST, RUNS = 128, 16, 96, 7


def main() -> None:
  graph, params = packed.decoder(CONFIG)
  params = jax.tree.map(lambda x: 0.3 * x if x.ndim > 1 else x, params)
  draw = np.random.default_rng(7)
  lengths = np.clip(np.exp(draw.normal(np.log(60), 0.5, PROMPTS)).astype(int), 8, 160)
  prompts = [draw.integers(0, 512, length).tolist() for length in sorted(lengths, reverse=True)]
  names = [(index, 0) for index in range(PROMPTS)]
  steps, real = [0], decode._decode

  def counting(graph, params, slots, *arguments, **settings):
    before = int(slots.step)
    slots = real(graph, params, slots, *arguments, **settings)
    steps[0] += int(slots.step) - before
    return slots

  decode._decode = counting

  def answer(first: int, last: int) -> list[list[int]]:
    return decode.generate(
      *(graph, params, CONFIG, "float32", prompts[first:last], EOS, MOST, 1.0),
      batch_size=SLOTS,
      names=names[first:last],
    )

  def refilled() -> list[list[int]]:
    return answer(0, PROMPTS)

  def waiting() -> list[list[int]]:
    return [each for first in range(0, PROMPTS, SLOTS) for each in answer(first, first + SLOTS)]

  answers = refilled()
  assert answers == waiting(), "the same answers"
  spans = np.percentile([len(each) for each in answers], (25, 50, 75, 100)).astype(int)
  print("tokens of an answer: quartiles {} {} {}, most {}".format(*spans))
  runs = [(measured(refilled, steps), measured(waiting, steps)) for _ in range(RUNS)]  # all is compiled by now
  for number, name in enumerate(("refilled", "waiting")):
    taken, seconds = zip(*(run[number] for run in runs), strict=True)
    print(f"{name}: {taken[0]} steps, {np.median(seconds):.2f} s of CPU")
  print(f"ratio of CPU times, median: {np.median([after[1] / before[1] for before, after in runs]):.2f}")


def measured(run: Callable, steps: list[int]) -> tuple[int, float]:
  """Steps and seconds of CPU time of a run."""
  steps[0], started = 0, time.process_time()
  run()
  return steps[0], time.process_time() - started


if __name__ == "__main__":
  main()
