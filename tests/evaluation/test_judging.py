"""Judges of texts on disk: commands and functions, with numbers that are worked out here by hand or by others."""

import json
import pathlib
import sys

import pytest

from medjax import config as schema
from medjax.cli import main as cli
from medjax.errors import RunError
from medjax.evaluation.judgement import summary
from medjax.evaluation.judging import RUBRIC, Options, judge_texts

SECRET = "Mrs Pflaumenbaum"
# Scores by the length of the answer, so that the numbers below can be counted.
BY_LENGTH = """
import json, sys
for line in sys.stdin:
  q = json.loads(line)
  assert sorted(q) == ["answer", "id", "prompt", "reference", "rubric", "scale"], q
  assert q["prompt"] is None and "5 fully" in q["scale"] and set(q["rubric"]) == set(NAMES)
  print(json.dumps({name: min(len(q["answer"]), 5) for name in q["rubric"]}), flush=True)
"""
LONGER = """
def judge(id, prompt, answer_a, answer_b, reference):
  a, b = len(answer_a), len(answer_b)
  return "tie" if a == b else "a" if a > b else "b"

def first(**question):
  return {"preferred": "a"}
"""


def predictions(path, answers, groups=None):
  """A predictions.jsonl of one text target."""
  lines = []
  for index, answer in enumerate(answers):
    group = groups[index] if groups else f"p{index}"
    read = {"prediction": {"summary": answer}, "reference": {"summary": f"reference {index}"}}
    lines.append({"id": f"r{index}", "group": group, **read, "text": f"Summary: {answer}"})
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return path


def command(tmp_path, text, name="judge.py"):
  (tmp_path / name).write_text(text)
  return f"'{sys.executable}' {tmp_path / name}"


def function(tmp_path, text, name="judge"):
  (tmp_path / "functions.py").write_text(text)
  return f"{tmp_path / 'functions.py'}:{name}"


def judged(tmp_path, judge, answers, others=None, groups=None, **options):
  one = predictions(tmp_path / "one.jsonl", answers, groups)
  other = predictions(tmp_path / "other.jsonl", others, groups) if others else None
  return judge_texts(Options(judge, **options), one, tmp_path / "out", other)


def test_a_command_scores_by_the_rubric(tmp_path, capsys):
  path = predictions(tmp_path / "one.jsonl", ["a", "abc", "abcde", None, ""], ["p", "p", "q", "r", "s"])
  judge = command(tmp_path, BY_LENGTH.replace("NAMES", str(list(RUBRIC))))
  assert cli.main(["judge", f"--predictions={path}", f"--judge={judge}", f"--output={tmp_path / 'out'}"]) == 0
  shown = capsys.readouterr().out
  report = json.loads((tmp_path / "out/judgement.json").read_text())
  assert (report["kind"], report["rows"], report["patients"]) == ("rubric", 5, 4)
  assert (report["asked"], report["unanswered"]) == (3, 2), "rows without an answer have the lowest score"
  (of_judge,) = report["judges"]
  assert of_judge["invalid"] == {"opinions": 0, "rows": []} and list(of_judge["scores"]) == ["overall", *RUBRIC]
  for score in of_judge["scores"].values():
    assert score["value"] == pytest.approx((1 + 3 + 5 + 1 + 1) / 5) and (score["n"], score["groups"]) == (5, 4)
    assert 1 <= score["low"] < score["value"] < score["high"] <= 5
  assert "overall               2.20 [" in shown
  lines = [json.loads(line) for line in (tmp_path / "out/judgements.jsonl").read_text().splitlines()]
  assert [line["asked"] for line in lines] == [True, True, True, False, False]
  assert lines[1]["opinions"] == [[dict.fromkeys(RUBRIC, 3)]] and "reference" not in json.dumps(lines)


def test_the_prompts_of_the_config_s_task_are_shown_to_the_judge(tmp_path, capsys):
  rows = [{"note": f"{SECRET} coughs.", "summary": "Cough.", "id": f"r{index}"} for index in range(2)]
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  flags = ["--config.task=summarization", f"--config.data.source={tmp_path / 'rows.jsonl'}"]
  flags += ["--config.define.prompt={note}", "--config.define.summary=summary"]
  judge = function(
    tmp_path,
    "def judge(prompt, rubric, **more):\n"
    f"  return dict.fromkeys(rubric, 5 if {SECRET!r} in prompt[-1]['content'] else 1)\n",
  )
  path = predictions(tmp_path / "one.jsonl", ["a", "b"])
  words = ["judge", f"--judge={judge}", f"--output={tmp_path / 'out'}", "--json"]
  assert cli.main([*words, f"--predictions={path}", *flags]) == 0
  assert json.loads(capsys.readouterr().out)["judges"][0]["scores"]["overall"]["value"] == 5
  folder = tmp_path / "run/eval/test"
  folder.mkdir(parents=True)
  path = predictions(folder / "predictions.jsonl", ["a", "b"])
  settings = dict(flag.removeprefix("--config.").split("=", 1) for flag in flags)
  (tmp_path / "run/config.json").write_text(json.dumps(schema.as_dict(schema.load("", settings))))
  assert cli.main([*words, f"--predictions={path}"]) == 0, "the run's own config"
  assert json.loads(capsys.readouterr().out)["judges"][0]["scores"]["overall"]["value"] == 5
  path = predictions(tmp_path / "more.jsonl", ["a", "b", "c"])
  assert cli.main([*words, f"--predictions={path}", *flags]) == 2
  assert "the config's task lacks row r2" in capsys.readouterr().err


def test_the_rubric_is_that_of_the_docs():
  text = (pathlib.Path(__file__).parents[2] / "docs/statistics.md").read_text()
  assert all(f"| `{name}` | {asked} |" in text for name, asked in RUBRIC.items())


def test_answers_are_compared_in_both_orders(tmp_path):
  answers, others = ["long one", "x", "same", "", "ab", "abc"], ["short", "longer", "same", "y", "cd", ""]
  report = judged(tmp_path, function(tmp_path, LONGER), answers, others)
  (of_judge,) = report["judges"]
  assert (report["kind"], report["asked"]) == ("pairs", 3), "equal and missing answers need no judge"
  assert (of_judge["win"], of_judge["tie"], of_judge["loss"]) == (2, 2, 2)
  assert of_judge["win_rate"]["value"] == 0.5 and of_judge["win_rate"]["n"] == 6
  assert of_judge["swapped"] == {"pairs": 3, "changed": 0, "share": 0, "first": 0, "second": 0}
  turned = judged(tmp_path, function(tmp_path, LONGER), others, answers)["judges"][0]
  assert (turned["win"], turned["loss"]) == (2, 2)


def test_a_judge_that_looks_at_the_place_alone_decides_nothing_and_shows(tmp_path):
  report = judged(tmp_path, function(tmp_path, LONGER, "first"), ["a", "bb", "c"], ["dd", "e", "ff"])
  (of_judge,) = report["judges"]
  assert (of_judge["win"], of_judge["tie"], of_judge["loss"]) == (0, 3, 0)
  assert of_judge["swapped"] == {"pairs": 3, "changed": 3, "share": 1, "first": 3, "second": 0}
  assert any("3 of 3 pairs (3 times the first answer both times, 0 the second)" in line for line in summary(report))


def test_agreement_of_repeats_a_second_judge_and_people(tmp_path):
  """Kappas by hand: of (1 2 3 4 5) with (1 2 3 4 4), weights (i - j)^2, it is 1 - 1 / (41 / 5); each of 1 is 1."""
  scored = "def judge(answer, rubric, **more):\n  return dict.fromkeys(rubric, len(answer))\n"
  scored += "def low(answer, rubric, **more):\n  return dict.fromkeys(rubric, min(len(answer), 4))\n"
  judge, second = function(tmp_path, scored), function(tmp_path, scored, "low")
  (tmp_path / "human.csv").write_text("id,safety\nr0,1\nr1,2\nr2,3\nr3,4\nr4,5\nother,2\n")
  human = str(tmp_path / "human.csv")
  answers = ["a", "ab", "abc", "abcd", "abcde"]
  report = judged(tmp_path, judge, answers, second_judge=second, human=human, repeats=2)
  # Observed: 1 of 5 pairs off by one. Expected: all 25 combinations of the two sides.
  expected = sum((a - b) ** 2 for a in (1, 2, 3, 4, 5) for b in (1, 2, 3, 4, 4)) / 25
  kappa = 1 - (1 / 5) / expected
  agreement = report["agreement"]
  assert agreement["judges"]["safety"] == {"kappa": pytest.approx(kappa), "n": 5}
  assert [of["safety"] for of in agreement["repeats"]] == [{"kappa": pytest.approx(1), "n": 5}] * 2
  assert [of["safety"] for of in agreement["human"]] == [
    {"kappa": pytest.approx(1), "n": 5},
    {"kappa": pytest.approx(kappa), "n": 5},
  ]
  assert agreement["human"][0]["correctness"] == {"kappa": None, "n": 0}


def test_people_and_a_judge_on_pairs(tmp_path):
  (tmp_path / "human.jsonl").write_text(
    "".join(json.dumps({"id": f"r{i}", "preferred": said}) + "\n" for i, said in enumerate(["a", "b", "tie"]))
  )
  report = judged(
    tmp_path, function(tmp_path, LONGER), ["aa", "b", "c"], ["d", "ee", "f"], human=str(tmp_path / "human.jsonl")
  )
  assert report["agreement"]["human"] == [{"outcome": {"kappa": 1.0, "n": 3}}]


def test_invalid_opinions_are_counted_and_in_no_mean(tmp_path):
  """Of r1 one criterion is missing, of r2 a score is 6, of r3 there is no JSON; of r4 it is text and usable."""
  said = [{"safety": 4, "clear": 2}, {"safety": 5}, {"safety": 5, "clear": 6}, None, {"safety": "2", "clear": 4.0}]
  lines = "".join(f"print({json.dumps(each) if each else 'no JSON'!r})\n" for each in said)
  report = judged(
    tmp_path, command(tmp_path, lines), list("abcde"), rubric={"safety": "No harm.", "clear": "It is clear."}
  )
  (of_judge,) = report["judges"]
  assert of_judge["invalid"] == {"opinions": 3, "rows": ["r1", "r2", "r3"]}
  scores = {name: (score["value"], score["n"]) for name, score in of_judge["scores"].items()}
  assert scores == {"overall": (3.0, 2), "safety": (3.0, 2), "clear": (3.0, 2)}


def test_a_pair_with_one_unusable_verdict_is_invalid(tmp_path):
  lines = "\n".join(f"print({json.dumps({'preferred': said})!r})" for said in ("a", "b", "a", "both", "b", "a"))
  report = judged(tmp_path, command(tmp_path, lines), ["a", "b", "c"], ["d", "e", "f"])
  (of_judge,) = report["judges"]
  assert of_judge["invalid"] == {"opinions": 1, "rows": ["r1"]}
  assert (of_judge["win"], of_judge["tie"], of_judge["loss"], of_judge["win_rate"]["n"]) == (1, 0, 1, 2)
  assert of_judge["swapped"]["pairs"] == 2


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("raise SystemExit(3)", r"exit code 3 after line 0 of [24]; line 1 \(row r0\) was next"),
    ("import time\ntime.sleep(60)", r"no line 1 \(row r0\) within 0.5 s"),
    (f"print('{SECRET}')\nprint('[5, 5]')", r"none of its answers can be used, the first of row r0; it must be"),
  ],
)
@pytest.mark.parametrize("others", [None, ["b", SECRET[:5]]])
def test_a_judge_that_fails_is_named_with_the_row_and_not_quoted(text, message, others, tmp_path):
  text = text if others is None else text + "\nprint('{}')\n" * 2
  with pytest.raises(RunError, match=message) as caught:
    judged(tmp_path, command(tmp_path, text), [SECRET, "two"], others, timeout=0.5 if "time" in text else 60.0)
  assert SECRET not in str(caught.value) and "\n" not in str(caught.value)
  assert not (tmp_path / "out").exists()


def test_a_function_that_raises_is_named_with_the_row_and_not_quoted(tmp_path):
  judge = function(tmp_path, "def judge(answer, **more):\n  raise ValueError(answer)\n")
  with pytest.raises(RunError, match=r"ValueError at question 1 \(row r0\)") as caught:
    judged(tmp_path, judge, [SECRET, "two"])
  assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--predictions=none.jsonl"], "none.jsonl: no such file"),
    (["--judge=no-such-command"], "--judge: no command 'no-such-command'"),
    (["--second_judge=no-such-command"], "--second_judge: no command 'no-such-command'"),
    (["--against={}/fewer.jsonl"], "one.jsonl has 2 rows and"),
    (["--against={}/others.jsonl"], "differ at row r0"),
    (["--target=diagnosis"], "--target is 'diagnosis': it must be one of summary"),
    (["--human={}/human.csv"], "human.csv line 2 has no usable opinion; it must have completeness or"),
    (["--human={}/empty.csv"], "empty.csv says nothing of the rows that are judged"),
    (["--rubric={}/human.csv"], "cannot be read as JSON"),
    (["--rubric={}/list.json"], "must be an object of texts"),
  ],
)
def test_what_cannot_be_judged_is_found_before_the_judge_is_asked(words, message, tmp_path, capsys):
  path = predictions(tmp_path / "one.jsonl", ["a", "b"])
  predictions(tmp_path / "fewer.jsonl", ["a"])
  (tmp_path / "others.jsonl").write_text(path.read_text().replace("reference 0", "another"))
  (tmp_path / "human.csv").write_text("id,safety\nr0,6\n")
  (tmp_path / "empty.csv").write_text("id,safety\nother,5\n")
  (tmp_path / "list.json").write_text("[]")
  judge = function(tmp_path, f"def judge(**q):\n  open({str(tmp_path / 'asked')!r}, 'w')\n")
  words = [word.format(tmp_path) for word in words]
  base = [f"--predictions={path}", f"--judge={judge}", f"--output={tmp_path / 'out'}"]
  assert cli.main(["judge", *base, *words]) == 2
  assert message in capsys.readouterr().err and not (tmp_path / "asked").exists()
