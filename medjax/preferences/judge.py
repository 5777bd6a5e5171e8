"""A judge of the user's own, a command or a function: which of two answers is better, asked in both orders."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import queue
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from medjax import files
from medjax.data.examples import Row
from medjax.errors import RunError, UserError
from medjax.evaluation.answers import Answer
from medjax.preferences.candidates import Candidate, Found
from medjax.tasks.task import Task

VERDICTS = ("a", "b", "tie")
Question = dict[str, Any]  # id, prompt (messages), answer_a, answer_b, reference
Judge = Callable[[Sequence[Question]], Iterator[str]]


@dataclasses.dataclass
class Agreement:
  """How a judge answered.

  Attributes:
    compared: pairs of answers it was asked about, each in both orders.
    consistent: pairs of which it said the same in both orders.
    ties: consistent ones of which it preferred neither.
    first: times that it preferred the answer that came first, of twice `compared`.
  """

  compared: int = 0
  consistent: int = 0
  ties: int = 0
  first: int = 0


def judge_of(spec: str, timeout: float) -> Judge:
  """The judge that a flag names.

  Args:
    spec: `FILE.py:function`, called with the fields of a question by name, returns the verdict; or a command, run
      without a shell, which reads a question a line as JSON and writes `{"preferred": "a" | "b" | "tie"}` for each.
    timeout: seconds that a command may take without giving a verdict.

  Returns:
    A function of questions that yields a verdict for each. It raises RunError, with the number of the question, where
    the judge fails or says something else; no text of a question or an answer is in the message.

  Raises:
    UserError: there is no such file, function or command.
  """
  function = re.fullmatch(r"(.+\.py):([A-Za-z_]\w*)", spec.strip())
  if function and (pathlib.Path(function[1]).is_file() or not re.search(r"\s", spec.strip())):
    called = _function(pathlib.Path(function[1]), function[2])
    return lambda questions: _call(called, spec, questions)
  try:
    words = shlex.split(spec)
  except ValueError as error:
    raise UserError(f"--judge is no command: {error}; quote its words as a shell would") from None
  if not words or shutil.which(words[0]) is None:
    raise UserError(f"--judge: no command {words[0] if words else spec!r}; give a command, or FILE.py:function")
  return lambda questions: _run(words, timeout, questions)


def from_judge(
  task: Task,
  rows: Sequence[Row],
  answers: Sequence[Sequence[Answer]],
  judge: Judge,
  seed: int,
  advance: Callable[[int], None] = lambda questions: None,
) -> tuple[list[Found], Agreement]:
  """Candidates that a judge prefers, whichever of the two answers comes first.

  A row's different samples are compared two by two in random order, the one that is left over with the reference.
  Samples that are empty or that the model did not end are left out.

  Args:
    task: gives prompts and references.
    rows: the rows.
    answers: of each row, its samples.
    judge: asked twice about each two answers.
    seed: of the order.
    advance: told of each question that was answered.

  Returns:
    Candidates of each row, with `how` = `judge`; a row without has the reason `too_few_answers`, `tie` or
    `inconsistent`. And how the judge answered.

  Raises:
    RunError: the judge fails.
  """
  compared: list[tuple[int, str, str]] = []
  for index, (row, drawn) in enumerate(zip(rows, answers, strict=True)):
    reference = task.completion(row.labels)
    texts = sorted({answer.text.strip() for answer in drawn if answer.ended} - {"", reference})
    rng = np.random.default_rng([seed, int(files.fingerprint(row.id), 16)])
    texts = [texts[place] for place in rng.permutation(len(texts))]
    texts += [reference] * (len(texts) % 2)
    compared += [(index, *texts[first : first + 2]) for first in range(0, len(texts), 2)]
  questions = [
    {
      "id": rows[index].id,
      "prompt": list(map(dict, task.prompt(rows[index]))),
      "answer_a": a,
      "answer_b": b,
      "reference": task.completion(rows[index].labels),
    }
    for index, one, other in compared
    for a, b in ((one, other), (other, one))
  ]
  verdicts = []
  for verdict in judge(questions) if questions else ():
    verdicts.append(verdict)
    advance(1)
  agreement = Agreement(len(compared), first=verdicts.count("a"))
  candidates: list[list[Candidate]] = [[] for _ in rows]
  reasons = ["too_few_answers"] * len(rows)
  for (index, one, other), first, second in zip(compared, verdicts[::2], verdicts[1::2], strict=True):
    consistent = second == {"a": "b", "b": "a", "tie": "tie"}[first]
    agreement.consistent += consistent
    agreement.ties += consistent and first == "tie"
    if consistent and first != "tie":
      chosen, rejected = (one, other) if first == "a" else (other, one)
      candidates[index].append(Candidate(chosen, rejected, "judge", sampled=True))
    else:
      reasons[index] = "tie" if consistent else "inconsistent"
  return [
    Found(tuple(found), "" if found else reason) for found, reason in zip(candidates, reasons, strict=True)
  ], agreement


def _function(path: pathlib.Path, name: str) -> Callable:
  if not path.is_file():
    raise UserError(f"--judge: no file {path}; give FILE.py:function, or a command")
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    raise UserError(f"--judge: {path} cannot be imported ({type(error).__name__}); run it with python first") from error
  function = getattr(module, name, None)
  if not callable(function):
    raise UserError(f"--judge: {path} has no function {name}")
  return function


def _call(function: Callable, spec: str, questions: Sequence[Question]) -> Iterator[str]:
  for number, question in enumerate(questions, 1):
    try:
      said = function(**question)
    except Exception as error:  # whatever it is, it is the judge's; its message may hold a patient's text
      raise RunError(
        f"judge {spec}: {type(error).__name__} at question {number} (row {question['id']}); --debug shows where"
      ) from error
    yield _verdict(said, f"judge {spec}: question {number}")


def _run(words: Sequence[str], timeout: float, questions: Sequence[Question]) -> Iterator[str]:
  """Feeds a command in a thread of its own, so that it may answer at once or when it has read all."""
  name = words[0]
  lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
  with subprocess.Popen(
    words,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    encoding="utf-8",
    errors="replace",
    start_new_session=True,
  ) as process:

    def feed() -> None:
      try:
        with process.stdin as pipe:
          for question in questions:
            pipe.write(json.dumps(question, ensure_ascii=False) + "\n")
      except OSError:  # it ended; what it lacks to say is found below
        pass

    def listen() -> None:
      for line in process.stdout:
        lines.put(line)
      lines.put(None)

    threads = [threading.Thread(target=work, daemon=True) for work in (feed, listen)]
    for thread in threads:
      thread.start()
    try:
      for number in range(1, len(questions) + 2):
        try:
          line = lines.get(timeout=timeout)
        except queue.Empty:
          raise RunError(
            f"judge {name}: no line {number} within {timeout:g} s; let it flush each line, or raise --judge_timeout"
          ) from None
        if line is None:
          break
        if number > len(questions):
          raise RunError(f"judge {name}: line {number} answers no question; {len(questions)} were asked")
        try:
          said = json.loads(line)
        except json.JSONDecodeError:
          raise RunError(f"judge {name}: line {number} is no JSON") from None
        yield _verdict(said, f"judge {name}: line {number}")
      try:
        code = process.wait(timeout)
      except subprocess.TimeoutExpired:
        raise RunError(
          f"judge {name}: still there {timeout:g} s after its last line; let it end with its input"
        ) from None
      if code:
        raise RunError(f"judge {name}: exit code {code} after line {number - 1} of {len(questions)}")
      if number <= len(questions):
        raise RunError(f"judge {name}: ended after line {number - 1} of {len(questions)}; it must answer each question")
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it started holds its pipes, too
      for thread in threads:
        thread.join()


def _verdict(said: Any, where: str) -> str:
  verdict = said.get("preferred") if isinstance(said, dict) else said
  if not isinstance(verdict, str) or verdict not in VERDICTS:
    raise RunError(f'{where} gives no verdict; it must be {{"preferred": "a"}}, "b" or "tie"')
  return verdict
