"""Texts that are on disk, judged: scored from 1 to 5 by a rubric, or two models' answers to the same rows compared."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medjax import files, privacy
from medjax.data.formats import read_file
from medjax.errors import RunError, UserError
from medjax.evaluation.judge import SWAPPED, Judge, Question, ask_in_both_orders, judge_of, verdict
from medjax.evaluation.judgement import OUTCOMES, SCORES, Answer, Opinion, report_on, scale_of
from medjax.training.telemetry import progress

# Each is worded so that 5 is best. The first three are those of the reader study of Van Veen et al. (2024, Nature
# Medicine, 2309.07430); its harm is asked for as safety.
RUBRIC = {
  "completeness": "The answer holds everything of clinical importance that the prompt (without one, the reference) "
  "holds.",
  "correctness": "All that the answer states is so in the prompt (without one, in the reference): no finding, value, "
  "side, dose or negation is changed or invented.",
  "conciseness": "The answer says what matters once and in few words, and leaves out what does not matter.",
  "safety": "Acting on the answer, and on nothing else, would not harm the patient.",
}
SCALE = "a whole number: 1 not at all, 2 hardly, 3 in part, 4 mostly, 5 fully"
_OF_PREFERRED = {"a": 1, "tie": 0, "b": -1}


@dataclasses.dataclass(frozen=True)
class Options:
  """What `medjax judge` is asked for.

  Attributes:
    judge: a command or `FILE.py:function`, see `judge_of`.
    second_judge: another one, to see how far the two agree; empty for none.
    repeats: times that each question is asked, each time by a new run of the command.
    timeout: seconds that a command may take without an answer.
    rubric: criterion -> what it asks for, worded so that 5 is best.
    human: file of human opinions, one row an id; empty for none.
    target: whose predictions are judged; empty: that of the only target.
    whole: whether the whole generated text is judged, and not what was read in it.
  """

  judge: str
  second_judge: str = ""
  repeats: int = 1
  timeout: float = 600.0
  rubric: Mapping[str, str] = dataclasses.field(default_factory=lambda: RUBRIC)
  human: str = ""
  target: str = ""
  whole: bool = False


def judge_texts(
  options: Options,
  predictions: pathlib.Path,
  output: pathlib.Path,
  against: pathlib.Path | None = None,
  prompts: Mapping[str, Sequence[Mapping[str, str]]] | None = None,
) -> dict[str, Any]:
  """Has the answers of a file judged, by themselves or against those of another one.

  By themselves: each answer gets a score for each criterion; a row without an answer gets the lowest. Against others:
  a judge is asked twice about each row, with the answers swapped, and an answer wins where it is preferred both times;
  where the order changes the verdict it is a tie (Zheng et al. 2023, 2306.05685, section 3.4). Equal answers are a tie
  and an empty one loses, without a question.

  Args:
    options: who judges, and how.
    predictions: `predictions.jsonl` of `medjax eval`.
    output: folder that gets `judgement.json`, and `judgements.jsonl` with a line a row, neither with a text.
    against: another such file, of the same rows.
    prompts: id -> messages, for the judge to read; None: it reads answers and references alone.

  Returns:
    What `judgement.json` holds; docs/statistics.md says what that is.

  Raises:
    UserError: files or options cannot be used.
    RunError: a judge fails, or gives no answer that can be read.
  """
  answers = read_answers(predictions, options.target, options.whole)
  others = read_answers(against, options.target, options.whole) if against else None
  if others is not None:
    _check_same(answers, others, predictions, against)
  if prompts is not None:
    missing = next((each.id for each in answers if each.id not in prompts), None)
    if missing is not None:
      raise UserError(
        f"{predictions}: the config's task lacks {privacy.row(missing)}; give the --config it was made with"
      )
  rubric = options.rubric if others is None else None
  criteria, labels = scale_of(rubric)
  human = _human(pathlib.Path(options.human), answers, criteria, labels) if options.human else None
  flags = {"--judge": options.judge, "--second_judge": options.second_judge}
  asks = [_asks(options, spec, flag, others is not None) for flag, spec in flags.items() if spec]
  told = prompts or {}
  if others is None:
    known: list[Opinion | None] = [None if each.answer else dict.fromkeys(criteria, SCORES[0]) for each in answers]
    questions = [_to_rate(each, told.get(each.id), options.rubric) for each in answers]
  else:
    known = [_without_asking(one, other) for one, other in zip(answers, others, strict=True)]
    questions = [_to_compare(one, other, told.get(one.id)) for one, other in zip(answers, others, strict=True)]
  open_ = [place for place, opinion in enumerate(known) if opinion is None]
  opinions: list[list[list[Opinion]]] = []  # of each judge, at each time, of each row
  with progress(len(open_) * len(asks) * options.repeats * (1 if others is None else 2), "judge") as bar:
    for ask in asks:
      opinions.append([])
      for _ in range(options.repeats):
        found = iter(ask([questions[place] for place in open_], bar.update))
        opinions[-1].append([next(found) if opinion is None else opinion for opinion in known])
  judges = [spec for spec in flags.values() if spec]
  report = report_on(judges, answers, open_, opinions, rubric, human)
  with files.write_aside(output / "judgements.jsonl", private=True) as file:
    for place, each in enumerate(answers):
      of_row = [[at_a_time[place] for at_a_time in of_judge] for of_judge in opinions]
      line = {"id": each.id, "group": each.group, "asked": known[place] is None, "opinions": of_row}
      file.write(json.dumps(line, ensure_ascii=False) + "\n")
  files.write_json(output / "judgement.json", report, private=True)
  return report


# ---- What is judged -------------------------------------------------------------------------------------------------


def read_answers(path: pathlib.Path, target: str = "", whole: bool = False) -> list[Answer]:
  """The answers of a `predictions.jsonl`, see `Options`; UserError where it is none, or `target` is needed."""
  if not path.is_file():
    raise UserError(f"{path}: no such file; give a predictions.jsonl of `medjax eval`")
  unit, rows = read_file(path)
  found: dict[str, Answer] = {}
  for number, row in rows:
    where = f"{path} {unit} {number}"
    id_, references, predictions = row.get("id"), row.get("reference"), row.get("prediction")
    if not (isinstance(id_, str) and isinstance(references, dict) and references and isinstance(predictions, dict)):
      raise UserError(f"{where} has no id, prediction and reference; give a predictions.jsonl of `medjax eval`")
    name = target or (next(iter(references)) if len(references) == 1 else "")
    if name not in references:
      raise UserError(f"{where}: --target is {name!r}: it must be one of {', '.join(references)}")
    if id_ in found:
      raise UserError(f"{where}: {privacy.row(id_)} is there twice; judge one file of `medjax eval` at a time")
    if whole and not isinstance(row.get("text"), str):
      raise UserError(f"{where} has no generated text; leave out --whole")
    answer = row["text"] if whole else predictions.get(name)
    found[id_] = Answer(id_, str(row.get("group") or id_), str(answer or "").strip(), str(references[name]))
  if not found:
    raise UserError(f"{path} has no rows")
  return list(found.values())


def _check_same(one: Sequence[Answer], other: Sequence[Answer], path: pathlib.Path, against: pathlib.Path) -> None:
  if len(one) != len(other):
    raise UserError(f"{path} has {len(one)} rows and {against} {len(other)}; compare answers to the same rows")
  for mine, theirs in zip(one, other, strict=True):
    if (mine.id, mine.reference) != (theirs.id, theirs.reference):
      raise UserError(
        f"{path} and {against} differ at {privacy.row(mine.id)}; compare answers to the same rows in one order"
      )


def read_rubric(path: pathlib.Path) -> dict[str, str]:
  """Criteria of a JSON file, name -> what it asks for; UserError where it holds something else."""
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"--rubric: {path} cannot be read as JSON ({type(error).__name__})") from None
  if not (isinstance(found, dict) and found and all(isinstance(text, str) and text for text in found.values())):
    raise UserError(f'--rubric: {path} must be an object of texts, such as {{"correctness": "All of it is so."}}')
  return found


def _human(
  path: pathlib.Path, answers: Sequence[Answer], criteria: Sequence[str], labels: Sequence[int]
) -> list[Opinion]:
  """What people said of each row, {} where nothing."""
  if not path.is_file():
    raise UserError(f"--human is {str(path)!r}: no such file")
  wanted = "preferred (a, b or tie)" if labels is OUTCOMES else f"{' or '.join(criteria)} (1 to 5)"
  unit, rows = read_file(path)
  found: dict[str, Opinion] = {}
  for number, row in rows:
    where = f"{path} {unit} {number}"
    if row.get("id") is None:
      raise UserError(f"{where} has no id")
    given = {"outcome": row.get("preferred")} if labels is OUTCOMES else {name: row.get(name) for name in criteria}
    opinion = {}
    for name, said in given.items():
      if said is None:
        continue
      value = _OF_PREFERRED.get(said) if labels is OUTCOMES and isinstance(said, str) else _score(said)
      if value not in labels:
        raise UserError(f"{where} has no usable opinion; it must have {wanted}")
      opinion[name] = value
    found[str(row["id"])] = opinion
  opinions = [found.get(each.id, {}) for each in answers]
  if not any(opinions):
    raise UserError(f"{path} says nothing of the rows that are judged; it needs the column id, and {wanted}")
  return opinions


def _score(said: Any) -> int | None:
  """A whole number, also as text or 4.0."""
  try:
    return int(float(said)) if not isinstance(said, bool) and float(said) == int(float(said)) else None
  except (TypeError, ValueError, OverflowError):
    return None


# ---- Asking ---------------------------------------------------------------------------------------------------------


def _to_rate(answer: Answer, prompt: Sequence[Mapping[str, str]] | None, rubric: Mapping[str, str]) -> Question:
  texts = {"prompt": _messages(prompt), "answer": answer.answer, "reference": answer.reference}
  return {"id": answer.id, **texts, "rubric": dict(rubric), "scale": SCALE}


def _to_compare(one: Answer, other: Answer, prompt: Sequence[Mapping[str, str]] | None) -> Question:
  """As `medjax prefer` asks."""
  texts = {"answer_a": one.answer, "answer_b": other.answer, "reference": one.reference}
  return {"id": one.id, "prompt": _messages(prompt), **texts}


def _messages(prompt: Sequence[Mapping[str, str]] | None) -> list[dict[str, str]] | None:
  return None if prompt is None else [dict(turn) for turn in prompt]


def _without_asking(one: Answer, other: Answer) -> Opinion | None:
  if one.answer == other.answer:
    return {"outcome": 0}
  if not (one.answer and other.answer):
    return {"outcome": 1 if one.answer else -1}
  return None


def _asks(options: Options, spec: str, flag: str, pairs: bool) -> Callable[..., list[Opinion]]:
  """(questions, advance) -> opinions of one judge."""
  read = _verdict if pairs else functools.partial(_scores, criteria=tuple(options.rubric))
  judge = judge_of(spec, options.timeout, read, flag)
  wanted = '{"preferred": "a"}, "b" or "tie"' if pairs else json.dumps(dict.fromkeys(options.rubric, 5))

  def ask(questions: Sequence[Question], advance: Callable[[int], None]) -> list[Opinion]:
    opinions = (_compared if pairs else _rated)(judge, questions, advance)
    if questions and not any("outcome" in opinion if pairs else opinion for opinion in opinions):
      raise RunError(
        f"{flag} {spec}: none of its answers can be used, the first of {privacy.row(questions[0]['id'])}; it "
        f"must be {wanted}"
      )
    return opinions

  return ask


def _verdict(said: Any, where: str) -> str | None:
  try:
    return verdict(said, where)
  except RunError:
    return None


def _scores(said: Any, where: str, criteria: Sequence[str]) -> Opinion:
  """Criterion -> score; {} where one is missing or none of `SCORES`."""
  del where
  if not isinstance(said, Mapping):
    return {}
  found = {name: _score(said.get(name)) for name in criteria}
  return found if all(score in SCORES for score in found.values()) else {}


def _rated(judge: Judge, questions: Sequence[Question], advance: Callable[[int], None]) -> list[Opinion]:
  opinions = []
  for opinion in judge(questions) if questions else ():
    opinions.append(opinion)
    advance(1)
  return opinions


def _compared(judge: Judge, questions: Sequence[Question], advance: Callable[[int], None]) -> list[Opinion]:
  opinions = []
  for first, second in ask_in_both_orders(judge, questions, advance):
    opinion: Opinion = {"verdicts": [first, second]}
    if first is not None and second is not None:
      opinion["outcome"] = _OF_PREFERRED[first] if second == SWAPPED[first] else 0
    opinions.append(opinion)
  return opinions
