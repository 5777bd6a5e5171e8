"""Answers by generation: a model's completions of a task's prompts, and what the task reads in them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from flax import nnx

from medjax import files
from medjax.data.chat import Encoder, LengthReport, Limits, encode_all
from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.evaluation import decode
from medjax.evaluation.score import Prediction
from medjax.evaluation.stops import check_stop, cut_at_stop, end_at_stop, has_stop
from medjax.models.config import ModelConfig
from medjax.models.decoder import Params
from medjax.models.pretrained import DTYPES
from medjax.tasks.task import Task, TextTarget

_MOST_ROWS = 32
_CACHE_BYTES = 2**30  # keys and values of a batch on each device


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How answers are drawn: how many to a prompt, and from what.

  Attributes:
    samples: answers to each prompt, which is read once for those that begin together.
    temperature: 0 takes the most likely token.
    top_p: nucleus to sample from, in (0, 1].
    seed: of the draws; what is drawn depends on it, the row's id and the sample's number, and on no other row.
    stop: texts that end an answer, which is cut before the first of them.
  """

  samples: int = 1
  temperature: float = 0.0
  top_p: float = 1.0
  seed: int = 0
  stop: tuple[str, ...] = ()


class Answer(NamedTuple):
  """An answer's text, and whether the model or a stop string ended it (else it was cut at its most tokens)."""

  text: str
  ended: bool


def sample_rows(
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
  per_row: int = 1,
  advance: Callable[[int], None] = lambda rows: None,
  sampling: Sampling = Sampling(),
) -> tuple[list[list[Answer]], LengthReport]:
  """Decodes answers to every row: the likeliest one, or samples.

  Args:
    graph: the decoder.
    params: its parameters, on one device or sharded over a mesh that does not split tokens.
    model: its configuration.
    eos: ids that end the model's turn; the one that ends a learned answer is added.
    dtype: of activations and cache.
    task: gives prompts and the most tokens of an answer: those of `task.generation`, else of its longest answer.
    rows: what to answer; labels are not looked at.
    encoder: texts to token ids.
    limits: how long a prompt and its answer may be; prompts are cut, never dropped.
    least_rows: fewest prompts decoded at once, see `decoding_rows`.
    shared_by: devices, or sets of such, that share the rows of a batch.
    per_row: devices that share a row.
    advance: told how many answers have just been given.
    sampling: how many answers to a row, how they are drawn, and what ends them.

  Returns:
    For each row its answers, which `read` reads, and how many prompts were cut.

  Raises:
    UserError: the answer leaves no room for a prompt, or a stop string is empty.
  """
  check_stop(sampling.stop)
  (probe,) = encoder.segments([("probe", task.prompt(rows[0]), ("a",))])
  new = most_new_tokens(task, rows[0], encoder)
  if limits.max_length and limits.max_length < new + 2:
    raise UserError(
      f"task {task.name} answers in up to {new} tokens, which leaves no room for a prompt in {limits.max_length}; "
      "raise model.max_length or use a model with a longer context"
    )
  room = dataclasses.replace(limits, max_length=limits.max_length and limits.max_length - new)
  groups, report = encode_all([(row.id, task.prompt(row), ()) for row in rows], encoder, room)
  if report.dropped:
    raise UserError(f"row {report.dropped[0]} has no room for its prompt; raise data.max_prompt or model.max_length")
  prompts = [group.prompt for group in groups for _ in range(sampling.samples)]
  batch = decoding_rows(model, max(map(len, prompts)) + new, dtype, least_rows, shared_by, per_row)
  rows_of = [int(files.fingerprint(row.id)[:8], 16) for row in rows]
  ids = decode.generate(
    *(graph, params, model, dtype, prompts, tuple(dict.fromkeys((*eos, probe.completions[0][-1]))), new),
    *(sampling.temperature, sampling.top_p, sampling.seed, batch, advance),
    names=[(row, number) for row in rows_of for number in range(sampling.samples)],
    end_of=end_at_stop(encoder.tokenizer, sampling.stop),
  )
  texts = encoder.tokenizer.batch_decode(ids, skip_special_tokens=True)
  answers = [
    Answer(cut_at_stop(text, sampling.stop), len(tokens) < new or has_stop(text, sampling.stop))
    for text, tokens in zip(texts, ids, strict=True)
  ]
  return [answers[first : first + sampling.samples] for first in range(0, len(answers), sampling.samples)], report


def most_new_tokens(task: Task, row: Row, encoder: Encoder) -> int:
  """Most tokens of an answer: as `task.generation` says, else those of the longest of the task's answers."""
  if task.generation is not None:
    return task.generation.max_new_tokens
  (group,) = encoder.segments([("answers", task.prompt(row), [task.completion(labels) for labels in task.answers()])])
  return max(map(len, group.completions))


def decoding_rows(
  model: ModelConfig, tokens: int, dtype: str, least: int = 1, shared_by: int = 1, per_row: int = 1
) -> int:
  """How many prompts to decode at once, a multiple of `shared_by`.

  Each token that is decoded reads all weights once for the whole batch, so a batch is as large as a gigabyte of keys
  and values on each device allows, up to 32 rows for each device, and never smaller than `least`.

  Args:
    model: shape of the decoder.
    tokens: of a prompt and its answer.
    dtype: of the cache.
    least: fewest rows.
    shared_by: devices, or sets of such, that share the rows of a batch.
    per_row: devices that share a row, each with some of its heads.
  """
  row_bytes = 2 * model.num_layers * model.num_kv_heads * model.head_width * DTYPES[dtype].itemsize * tokens
  rows = int(np.clip(per_row * _CACHE_BYTES // row_bytes, 1, per_row * _MOST_ROWS))
  return _multiple(max(least, shared_by * rows), shared_by)


def _multiple(size: int, of: int) -> int:
  return of * -(-size // of)


def read(task: Task, row: Row, text: str) -> Prediction:
  """What `task.generation` finds in an answer to a row; a target that is not found, or empty, is None."""
  found = task.generation.read(text, row.fields)
  values = {
    name: (found.get(name) or None) if isinstance(target, TextTarget) else found.get(name)
    for name, target in task.targets.items()
  }
  return Prediction(row.id, row.group, values, text=text)
