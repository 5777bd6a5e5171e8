"""`medjax judge`: texts that `medjax eval` has written, scored by a rubric or compared in pairs by a judge."""

import json
import pathlib

from absl import flags

from medjax.cli.verb import Arguments, Verb, load_config
from medjax.console import visible
from medjax.errors import UserError


def _define(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "predictions", None, "Answers to judge: a predictions.jsonl of `medjax eval`.", required=True, flag_values=values
  )
  flags.DEFINE_string("against", "", "Another such file of the same rows: answers are compared.", flag_values=values)
  flags.DEFINE_string(
    "output", None, "Folder for judgement.json and judgements.jsonl.", required=True, flag_values=values
  )
  flags.DEFINE_string(
    "judge",
    None,
    "FILE.py:function, or a command that reads a question a line (JSON: id, prompt, answer, reference, rubric, scale) "
    'and writes {"CRITERION": 1 to 5, ...} for each; with --against as `medjax prefer` asks.',
    required=True,
    flag_values=values,
  )
  flags.DEFINE_string("second_judge", "", "Another judge, to see how far the two agree.", flag_values=values)
  flags.DEFINE_integer("repeats", 1, "Times that each question is asked.", lower_bound=1, flag_values=values)
  flags.DEFINE_string(
    "rubric", "", "JSON file of criteria, name to text; else those of docs/statistics.md.", flag_values=values
  )
  flags.DEFINE_string(
    "human", "", "File of people's opinions: id and criteria (1 to 5), or id and preferred.", flag_values=values
  )
  flags.DEFINE_string("target", "", "Whose predictions are judged, where there are several.", flag_values=values)
  flags.DEFINE_boolean("whole", False, "Judge the whole generated text, not what was read in it.", flag_values=values)
  flags.DEFINE_float(
    "judge_timeout", 600.0, "Seconds a command may take without an answer.", lower_bound=0.0, flag_values=values
  )
  flags.DEFINE_boolean("json", False, "Print judgement.json.", flag_values=values)


def _run(arguments: Arguments) -> None:
  values = arguments.flags
  if values.against and values.rubric:
    raise UserError("--rubric is for scores; answers that are compared have none, leave out --rubric or --against")
  from medjax.evaluation.judgement import summary
  from medjax.evaluation.judging import RUBRIC, Options, judge_texts, read_rubric

  options = Options(
    judge=values.judge,
    second_judge=values.second_judge,
    repeats=values.repeats,
    timeout=values.judge_timeout,
    rubric=read_rubric(pathlib.Path(values.rubric)) if values.rubric else RUBRIC,
    human=values.human,
    target=values.target,
    whole=values.whole,
  )
  predictions, output = pathlib.Path(values.predictions), pathlib.Path(values.output)
  against = pathlib.Path(values.against) if values.against else None
  report = judge_texts(options, predictions, output, against, _prompts(arguments, predictions))
  if values.json:
    print(json.dumps(report, indent=2, ensure_ascii=False))
    return
  for line in (*summary(report), str(output / "judgement.json"), str(output / "judgements.jsonl")):
    print(visible(line))


def _prompts(arguments: Arguments, predictions: pathlib.Path) -> dict | None:
  """Id -> prompt of the rows of the config's task; None without a task."""
  config = load_config(arguments, [folder / "config.json" for folder in predictions.absolute().parents[2:3]])
  if not config.task:
    return None
  from medjax import tasks
  from medjax.data.rows import task_rows

  task = tasks.of(config)
  return {row.id: task.prompt(row) for rows in task_rows(config, task).values() for row in rows}


VERB = Verb(
  "scores by a rubric, or wins and losses, that a judge of yours gives to texts of `medjax eval`",
  "medjax judge --predictions=runs/notes/eval/test/predictions.jsonl --judge='python judge.py' --output=judged",
  _define,
  _run,
  takes_config=True,
)
