"""A judge of the user's own, a command or a function, asked questions about texts; nothing is sent anywhere else."""

import contextlib
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

from medjax import privacy
from medjax.errors import RunError, UserError

VERDICTS = ("a", "b", "tie")
SWAPPED = {"a": "b", "b": "a", "tie": "tie"}  # what a verdict is about the swapped answers
_MOST_CHARACTERS = 2**20  # of a line that a judge writes
NO_JSON = object()  # stands for a line that is none
Question = dict[str, Any]  # `id`, and what the judge is told
Reader = Callable[[Any, str], Any]  # (what the judge said, where) -> what it means; may raise RunError
Judge = Callable[[Sequence[Question]], Iterator[Any]]


def verdict(said: Any, where: str) -> str:
  """Which of two answers is better, of `VERDICTS`; RunError where the judge said something else."""
  if said is NO_JSON:
    raise RunError(f"{where} is no JSON")
  found = said.get("preferred") if isinstance(said, dict) else said
  if not isinstance(found, str) or found not in VERDICTS:
    raise RunError(f'{where} gives no verdict; it must be {{"preferred": "a"}}, "b" or "tie"')
  return found


def judge_of(spec: str, timeout: float, read: Reader = verdict, flag: str = "--judge") -> Judge:
  """The judge that a flag names.

  Args:
    spec: `FILE.py:function`, called with the fields of a question by name, returns the answer; or a command, run
      without a shell, which reads a question a line as JSON and writes a line of JSON for each.
    timeout: seconds that a command may take without an answer.
    read: what an answer means: which of two texts is better, unless something else is asked.
    flag: that named it.

  Returns:
    A function of questions that yields what was read for each. It raises RunError, with the number of the question and
    its row, where the judge fails; no text of a question or an answer is in the message.

  Raises:
    UserError: there is no such file, function or command.
  """
  function = re.fullmatch(r"(.+\.py):([A-Za-z_]\w*)", spec.strip())
  if function and (pathlib.Path(function[1]).is_file() or not re.search(r"\s", spec.strip())):
    called = _function(pathlib.Path(function[1]), function[2], flag)
    return lambda questions: _call(called, spec, questions, read)
  try:
    words = shlex.split(spec)
  except ValueError as error:
    raise UserError(f"{flag} is no command: {error}; quote its words as a shell would") from None
  if not words or shutil.which(words[0]) is None:
    raise UserError(f"{flag}: no command {words[0] if words else spec!r}; give a command, or FILE.py:function")
  return lambda questions: _run(words, timeout, questions, read)


def ask_in_both_orders(
  judge: Judge, questions: Sequence[Question], advance: Callable[[int], None] = lambda answered: None
) -> list[tuple[Any, Any]]:
  """Asks which answer is better, each question twice: as it is, and with `answer_a` and `answer_b` swapped.

  Whoever looks at the place of an answer shows by it (position bias; Zheng et al. 2023, 2306.05685, section 3.3).

  Args:
    judge: reads verdicts.
    questions: `id`, `prompt`, `answer_a`, `answer_b`, `reference`.
    advance: told of each answer.

  Returns:
    For each question the two verdicts as they were given: the second one is about the swapped answers.
  """
  asked = [
    one for each in questions for one in (each, each | {"answer_a": each["answer_b"], "answer_b": each["answer_a"]})
  ]
  verdicts = []
  for found in judge(asked) if asked else ():
    verdicts.append(found)
    advance(1)
  return list(zip(verdicts[::2], verdicts[1::2], strict=True))


def _function(path: pathlib.Path, name: str, flag: str) -> Callable:
  if not path.is_file():
    raise UserError(f"{flag}: no file {path}; give FILE.py:function, or a command")
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    raise UserError(f"{flag}: {path} cannot be imported ({type(error).__name__}); run it with python first") from error
  function = getattr(module, name, None)
  if not callable(function):
    raise UserError(f"{flag}: {path} has no function {name}")
  return function


def _call(function: Callable, spec: str, questions: Sequence[Question], read: Reader) -> Iterator[Any]:
  for number, question in enumerate(questions, 1):
    try:
      said = function(**question)
    except Exception as error:  # whatever it is, it is the judge's; its message may hold a patient's text
      raise RunError(
        f"judge {spec}: {type(error).__name__} at question {number} ({privacy.row(question['id'])}); "
        "--debug shows where"
      ) from error
    yield read(said, f"judge {spec}: question {number} ({privacy.row(question['id'])})")


def _run(words: Sequence[str], timeout: float, questions: Sequence[Question], read: Reader) -> Iterator[Any]:
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
      while line := process.stdout.readline(_MOST_CHARACTERS + 1):
        lines.put(line)
        if len(line) > _MOST_CHARACTERS:
          break
      lines.put(None)

    threads = [threading.Thread(target=work, daemon=True) for work in (feed, listen)]
    for thread in threads:
      thread.start()
    try:
      for number, row in enumerate([*(f" ({privacy.row(question['id'])})" for question in questions), ""], 1):
        try:
          line = lines.get(timeout=timeout)
        except queue.Empty:
          hint = "let it flush each line, or raise --judge_timeout"
          raise RunError(f"judge {name}: no line {number}{row} within {timeout:g} s; {hint}") from None
        if line is None:
          break
        if len(line) > _MOST_CHARACTERS:
          raise RunError(f"judge {name}: line {number}{row} has more than {_MOST_CHARACTERS} characters")
        if number > len(questions):
          raise RunError(f"judge {name}: line {number} answers no question; {len(questions)} were asked")
        try:
          said = json.loads(line)
        except (ValueError, RecursionError):
          said = NO_JSON
        yield read(said, f"judge {name}: line {number}{row}")
      try:
        code = process.wait(timeout)
      except subprocess.TimeoutExpired:
        raise RunError(
          f"judge {name}: still there {timeout:g} s after its last line; let it end with its input"
        ) from None
      after = f"after line {number - 1} of {len(questions)}" + (f"; line {number}{row} was next" if row else "")
      if code:
        raise RunError(f"judge {name}: exit code {code} {after}")
      if row:
        raise RunError(f"judge {name}: ended {after}; it must answer each question")
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it started holds its pipes, too
      for thread in threads:
        thread.join()
