"""Answers by generation: a model's greedy completions of a task's prompts, and what the task reads in them."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from flax import nnx

from medjax.data.chat import Encoder, LengthReport, Limits, encode_all
from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.evaluation import decode
from medjax.evaluation.score import Prediction
from medjax.models.config import ModelConfig
from medjax.models.decoder import Params
from medjax.models.pretrained import DTYPES
from medjax.tasks.task import Task, TextTarget

_MOST_ROWS = 32
_CACHE_BYTES = 2**30  # keys and values of a batch on each device


def generate_rows(
  graph: nnx.GraphDef,
  params: Params,
  model: ModelConfig,
  eos: Sequence[int],
  dtype: str,
  task: Task,
  rows: Sequence[Row],
  encoder: Encoder,
  limits: Limits,
  least_rows: int = 1,
  shared_by: int = 1,
  advance: Callable[[int], None] = lambda rows: None,
) -> tuple[list[Prediction], LengthReport]:
  """Decodes the answer to every row greedily and reads it as `task.generation` says.

  Args:
    graph: the decoder.
    params: its parameters, on one device or sharded over a mesh that does not split tokens.
    model: its configuration.
    eos: ids that end the model's turn; the one that ends a learned answer is added.
    dtype: of activations and cache.
    task: gives prompts and reads answers.
    rows: what to answer; labels are not looked at.
    encoder: texts to token ids.
    limits: how long a prompt and its answer may be; prompts are cut, never dropped.
    least_rows: fewest prompts decoded at once, see `decoding_rows`.
    shared_by: devices that share the rows of a batch.
    advance: told how many rows have just been answered.

  Returns:
    A prediction for each row, and how many prompts were cut.

  Raises:
    UserError: the answer leaves no room for a prompt.
  """
  new = task.generation.max_new_tokens
  if limits.max_length and limits.max_length < new + 2:
    raise UserError(
      f"task {task.name} answers in up to {new} tokens, which leaves no room for a prompt in {limits.max_length}; "
      "raise model.max_length or use a model with a longer context"
    )
  room = dataclasses.replace(limits, max_length=limits.max_length and limits.max_length - new)
  groups, report = encode_all([(row.id, task.prompt(row), ()) for row in rows], encoder, room)
  if report.dropped:
    raise UserError(f"row {report.dropped[0]} has no room for its prompt; raise data.max_prompt or model.max_length")
  prompts = [group.prompt for group in groups]
  (probe,) = encoder.segments([("probe", task.prompt(rows[0]), ("a",))])
  batch = decoding_rows(model, max(map(len, prompts)) + new, dtype, least_rows, shared_by)
  batches = -(-len(prompts) // batch)  # of equal size, so that the last one has few empty rows
  batch = _multiple(-(-len(prompts) // batches), shared_by)
  left = len(prompts)

  def advance_rows(done: int) -> None:
    nonlocal left
    advance(min(done, left))  # the last batch may hold repeated prompts
    left -= min(done, left)

  filled = prompts + prompts[-1:] * (_multiple(len(prompts), shared_by) - len(prompts))
  answers = decode.generate(
    graph,
    params,
    model,
    dtype,
    filled,
    tuple(dict.fromkeys((*eos, probe.completions[0][-1]))),
    new,
    batch_size=batch,
    advance=advance_rows,
  )
  texts = encoder.tokenizer.batch_decode(answers[: len(prompts)], skip_special_tokens=True)
  return [_read(task, row, text) for row, text in zip(rows, texts, strict=True)], report


def decoding_rows(model: ModelConfig, tokens: int, dtype: str, least: int = 1, shared_by: int = 1) -> int:
  """How many prompts to decode at once, a multiple of `shared_by`.

  Each token that is decoded reads all weights once for the whole batch, so a batch is as large as a gigabyte of keys
  and values on each device allows, up to 32 rows a device, and never smaller than `least`.

  Args:
    model: shape of the decoder.
    tokens: of a prompt and its answer.
    dtype: of the cache.
    least: fewest rows.
    shared_by: devices that share the rows of a batch.
  """
  row_bytes = 2 * model.num_layers * model.num_kv_heads * model.head_width * DTYPES[dtype].itemsize * tokens
  return _multiple(max(least, shared_by * int(np.clip(_CACHE_BYTES // row_bytes, 1, _MOST_ROWS))), shared_by)


def _multiple(size: int, of: int) -> int:
  return of * -(-size // of)


def _read(task: Task, row: Row, text: str) -> Prediction:
  found = task.generation.read(text, row.fields)
  values = {
    name: (found.get(name) or None) if isinstance(target, TextTarget) else found.get(name)
    for name, target in task.targets.items()
  }
  return Prediction(row.id, row.group, values, text=text)
