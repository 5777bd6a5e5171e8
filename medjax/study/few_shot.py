"""Answered examples in front of a question: which train rows a few-shot prompt shows."""

import dataclasses
from typing import Any

import numpy as np
from absl import logging

from medjax.data import chat
from medjax.data.rows import task_rows, windowed
from medjax.evaluation.answers import most_new_tokens
from medjax.tasks.task import Task

_DRAWN = 4  # examples are looked at for each that is wanted: some are too long


def with_shots(
  config: Any, task: Task, wanted: int, encoder: chat.Encoder, limits: chat.Limits
) -> tuple[Task, list[str]]:
  """The task with answered examples in its prompts, the same for every row.

  Train rows are drawn by `config.seed`. One that would make the longest test prompt too long is passed over; prompts
  that are too long without any are not looked at. Where an example has several answers (targets asked for one by one),
  each shows one, in turn.

  Args:
    config: a validated run config.
    task: its task.
    wanted: how many examples.
    encoder: texts to token segments.
    limits: how long a prompt and its answer may be.

  Returns:
    The task, and the ids of the rows that it shows.
  """
  rows = task_rows(config, task)
  train = windowed(rows["train"], task)
  asked = [piece for row in rows["test"] for piece in task.windows(row)]
  lengths = [len(prompt) for prompt in encoder.prompts([task.prompt(row) for row in asked])]
  room = limits.max_length - most_new_tokens(task, asked[0], encoder) if limits.max_length else max(lengths) * 10**6
  room = min(room, limits.max_prompt or room)
  fitting = [index for index, length in enumerate(lengths) if length <= room]
  if not fitting:
    logging.warning("few_shot: no test prompt of %s has room for an example", task.name)
    return task, []
  longest = asked[max(fitting, key=lengths.__getitem__)]
  shown, ids = task, []
  for index in np.random.default_rng(config.seed).permutation(len(train))[: _DRAWN * wanted]:
    example = task.example(train[index])
    answer = example.answers[len(ids) % len(example.answers)]
    turns = (example.prompt[-1], {"role": "assistant", "content": answer})
    longer = dataclasses.replace(shown, shots=(*shown.shots, *turns))
    (prompt,) = encoder.prompts([longer.prompt(longest)])
    if len(ids) < wanted and len(prompt) <= room:
      shown, ids = longer, [*ids, train[index].id]
  if len(ids) < wanted:
    logging.warning("few_shot: %d of %d examples of %s fit into the prompt", len(ids), wanted, task.name)
  return shown, ids
