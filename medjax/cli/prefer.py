"""`medjax prefer`: preference pairs for a task, made of its train rows."""

import pathlib

from absl import flags

from medjax.cli.verb import Arguments, Verb, check_task, load_config, run_config
from medjax.console import visible
from medjax.errors import UserError


def _define(values: flags.FlagValues) -> None:
  flags.DEFINE_string("output", None, "Where to write the pairs, as .jsonl.", required=True, flag_values=values)
  flags.DEFINE_string(
    "how", "labels", "Ways to make pairs, with commas: labels, policy, perturb, judge.", flag_values=values
  )
  flags.DEFINE_string(
    "checkpoint",
    "",
    "Who is sampled: a workdir, WORKDIR/best, a checkpoint or a model; else what the config's training starts from.",
    flag_values=values,
  )
  flags.DEFINE_integer("samples", 4, "Answers drawn for each row.", lower_bound=1, flag_values=values)
  flags.DEFINE_float("temperature", 0.8, "Of the samples.", lower_bound=0.0, flag_values=values)
  flags.DEFINE_float(
    "top_p",
    0.95,
    "Sample from the likeliest tokens up to this mass.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=values,
  )
  flags.DEFINE_integer("per_row", 1, "Most pairs of a row and way.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer(
    "max_length_gap",
    0,
    "Most words by which the answers of a pair may differ; 0 for no limit.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_boolean(
    "use_unparseable", False, "Reject samples that cannot be read, too, behind all wrong ones.", flag_values=values
  )
  flags.DEFINE_string(
    "judge",
    "",
    "FILE.py:function, or a command that reads a question a line (JSON: id, prompt, answer_a, answer_b, reference) "
    'and writes {"preferred": "a"|"b"|"tie"} for each.',
    flag_values=values,
  )
  flags.DEFINE_float(
    "judge_timeout", 600.0, "Seconds a command may take without a verdict.", lower_bound=0.0, flag_values=values
  )
  flags.DEFINE_integer("seed", None, "Of all that is drawn; else config.seed.", lower_bound=0, flag_values=values)


def _run(arguments: Arguments) -> None:
  values = arguments.flags
  saved = run_config(values.checkpoint) if values.checkpoint else None
  config = load_config(arguments, [saved] if saved else [])
  check_task(config, "to make pairs for", saved)
  if values.top_p <= 0:
    raise UserError("--top_p is 0: it must be more than 0")
  from medjax import config as schema
  from medjax.preferences.build import Options, prefer, report_path, summary

  if values.seed is not None:
    config = schema.with_overrides(config, {"seed": values.seed})
  options = Options(
    how=tuple(word.strip() for word in values.how.split(",") if word.strip()),
    checkpoint=values.checkpoint,
    samples=values.samples,
    temperature=values.temperature,
    top_p=values.top_p,
    per_row=values.per_row,
    max_length_gap=values.max_length_gap,
    use_unparseable=values.use_unparseable,
    judge=values.judge,
    judge_timeout=values.judge_timeout,
  )
  output = pathlib.Path(values.output)
  report = prefer(config, options, output)
  for line in (*summary(report), str(output), str(report_path(output))):
    print(visible(line))


VERB = Verb(
  "preference pairs from the train rows of a task",
  "medjax prefer --config=configs/triage.py --checkpoint=runs/triage-sft --how=policy --output=pairs.jsonl",
  _define,
  _run,
  takes_config=True,
  compiles=True,
)
