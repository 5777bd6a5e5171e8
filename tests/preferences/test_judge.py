"""A judge, as a command or a function: asked in both orders, believed where it says the same, never quoted."""

import sys

import pytest

from medjax.data.examples import Row
from medjax.errors import RunError, UserError
from medjax.evaluation.answers import Answer
from medjax.evaluation.judge import judge_of
from medjax.preferences.judge import Agreement, from_judge
from medjax.tasks.task import Generation, Task, TextTarget

TASK = Task(
  name="open",
  description="open text",
  targets={"text": TextTarget(lambda fields: None)},
  instruction="Say it.",
  render=lambda fields: fields["m"],
  answer="{text}",
  rejections=lambda labels, fields, rng: [],
  generation=Generation(9, lambda text, fields: {"text": text}),
)
SECRET = "Mrs Pflaumenbaum"
LONGER = """
import json, sys
for line in sys.stdin:
  q = json.loads(line)
  assert sorted(q) == ["answer_a", "answer_b", "id", "prompt", "reference"] and q["prompt"][1]["role"] == "user"
  a, b = len(q["answer_a"]), len(q["answer_b"])
  print(json.dumps({"preferred": "tie" if a == b else "a" if a > b else "b"}), flush=FLUSH)
"""


def row(number):
  return Row(f"r{number}", "p", {"m": f"{SECRET} {number}"}, {"text": "the reference"})


def drawn(*texts):
  return [Answer(text, True) for text in texts]


def command(tmp_path, text):
  (tmp_path / "judge.py").write_text(text)
  return f"'{sys.executable}' {tmp_path / 'judge.py'}"


def asked(spec, answers, timeout=60.0, seed=0):
  return from_judge(TASK, [row(number) for number in range(len(answers))], answers, judge_of(spec, timeout), seed)


@pytest.mark.parametrize("flush", ["True", "False"])
def test_a_command_prefers_the_longer_answer(flush, tmp_path):
  """Whether it answers line by line or when it has read all."""
  answers = [drawn("short", "a long one"), drawn("same", "size"), drawn("x"), drawn("", "the reference")]
  answers += [[Answer("was cut here, so it is no candidate", False), *drawn("y", "y")]] + [drawn("aa", "b")] * 300
  found, agreement = asked(command(tmp_path, LONGER.replace("FLUSH", flush)), answers)
  assert [(each.chosen, each.rejected, each.how) for each in found[0].candidates] == [("a long one", "short", "judge")]
  assert found[1].reason == "tie" and found[3].reason == "too_few_answers"
  assert [(each.chosen, each.rejected) for each in found[2].candidates] == [("the reference", "x")]
  assert [(each.chosen, each.rejected) for each in found[4].candidates] == [("the reference", "y")]
  assert agreement == Agreement(compared=304, consistent=304, ties=1, first=303)


def test_a_function_that_looks_at_the_place_alone_is_not_believed(tmp_path):
  (tmp_path / "mine.py").write_text("def first(id, prompt, answer_a, answer_b, reference):\n  return 'a'\n")
  found, agreement = asked(f"{tmp_path / 'mine.py'}:first", [drawn("one", "two", "three")])
  assert (found[0].candidates, found[0].reason) == ((), "inconsistent")
  assert agreement == Agreement(compared=2, consistent=0, ties=0, first=4)


def test_which_samples_meet_depends_on_the_seed(tmp_path):
  (tmp_path / "mine.py").write_text(
    "def f(answer_a, answer_b, **more):\n  return {'preferred': 'a' if answer_a < answer_b else 'b'}\n"
  )
  texts = [drawn(*"abcdefgh")]
  meets = [
    {
      frozenset((each.chosen, each.rejected))
      for each in asked(f"{tmp_path / 'mine.py'}:f", texts, seed=seed)[0][0].candidates
    }
    for seed in (0, 0, 1)
  ]
  assert meets[0] == meets[1] != meets[2] and all(len(each) == 4 for each in meets)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("print('{\"preferred\": \"a\"}')\nprint('Mrs Pflaumenbaum')", r"line 2 \(row r0\) is no JSON"),
    ('print(\'{"preferred": "Mrs Pflaumenbaum"}\')', r"line 1 \(row r0\) gives no verdict; it must be"),
    ("print('[]')", r"line 1 \(row r0\) gives no verdict"),
    (
      'print(\'{"preferred": "a"}\')\nraise SystemExit(3)',
      r"exit code 3 after line 1 of 2; line 2 \(row r0\) was next",
    ),
    ('print(\'{"preferred": "a"}\')', r"ended after line 1 of 2; line 2 \(row r0\) was next; it must"),
    ('print(\'{"preferred": "a"}\\n\' * 3)', "line 3 answers no question; 2 were asked"),
    (
      "import time\ntime.sleep(60)",
      r"no line 1 \(row r0\) within 0.5 s; let it flush each line, or raise --judge_timeout",
    ),
    (
      "import os, time\nprint('{\"preferred\": \"a\"}\\n' * 2, end='', flush=True)\nos.close(1)\ntime.sleep(60)",
      "still there 0.5 s after its last line",
    ),
  ],
)
def test_a_command_that_fails_is_named_with_the_line_and_not_quoted(text, message, tmp_path):
  timeout = 0.5 if "time" in text else 60.0
  with pytest.raises(RunError, match=message) as caught:
    asked(command(tmp_path, text), [drawn(SECRET, "two")], timeout)
  assert SECRET not in str(caught.value) and "\n" not in str(caught.value)


def test_a_function_that_fails_is_named_with_the_row_and_not_quoted(tmp_path):
  (tmp_path / "mine.py").write_text("def f(answer_a, **more):\n  raise ValueError(answer_a)\n")
  with pytest.raises(RunError, match=r"mine.py:f: ValueError at question 1 \(row r0\)") as caught:
    asked(f"{tmp_path / 'mine.py'}:f", [drawn(SECRET, "two")])
  assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    ("no-such-command --x", "no command 'no-such-command'"),
    ("none.py:f", "no file none.py"),
    ("'unclosed", "is no command"),
    ("{}/mine.py:g", "has no function g"),
    ("{}/broken.py:f", r"broken.py cannot be imported \(NameError\)"),
  ],
)
def test_a_judge_that_is_not_there_is_found_at_once(spec, message, tmp_path):
  (tmp_path / "mine.py").write_text("def f(**more):\n  return 'a'\n")
  (tmp_path / "broken.py").write_text("oops\n")
  with pytest.raises(UserError, match=message):
    judge_of(spec.format(tmp_path), 60.0)
