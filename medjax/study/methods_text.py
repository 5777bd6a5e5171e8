"""The methods paragraph of a report: what was done, written from a study's own protocol and environment."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medjax.study import names
from medjax.study.compare import enough_groups

_CITED = {
  "dpo": "Rafailov R, Sharma A, Mitchell E, Ermon S, Manning CD, Finn C. Direct preference optimization: your language "
  "model is secretly a reward model. NeurIPS 2023.",
  "orpo": "Hong J, Lee N, Thorne J. ORPO: monolithic preference optimization without reference model. EMNLP 2024.",
  "simpo": "Meng Y, Xia M, Chen D. SimPO: simple preference optimization with a reference-free reward. NeurIPS 2024.",
  "kto": "Ethayarajh K, Xu W, Muennighoff N, Jurafsky D, Kiela D. Model alignment as prospect theoretic optimization. "
  "ICML 2024.",
  "batch": "Zhou H, Wan X, Proleev L, et al. Batch calibration: rethinking calibration for in-context learning and "
  "prompt engineering. ICLR 2024.",
  "content_free": "Zhao TZ, Wallace E, Feng S, Klein D, Singh S. Calibrate before use: improving few-shot performance "
  "of language models. ICML 2021.",
  "score": "Wilson EB. Probable inference, the law of succession, and statistical inference. J Am Stat Assoc "
  "1927;22:209-212.",
  "jackknife": "Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall, 1993.",
  "bca": "Efron B. Better bootstrap confidence intervals. J Am Stat Assoc 1987;82:171-185.",
  "mcnemar": "McNemar Q. Note on the sampling error of the difference between correlated proportions or percentages. "
  "Psychometrika 1947;12:153-157.",
  "permutation": "Phipson B, Smyth GK. Permutation p-values should never be zero. Stat Appl Genet Mol Biol 2010;9:39.",
  "holm": "Holm S. A simple sequentially rejective multiple test procedure. Scand J Statist 1979;6:65-70.",
  "few": "Hanley JA, Lippman-Hand A. If nothing goes wrong, is everything all right? JAMA 1983;249:1743-1745.",
  "absence": "Piaggio G, Elbourne DR, Pocock SJ, Evans SJW, Altman DG. Reporting of noninferiority and equivalence "
  "randomized trials. JAMA 2012;308:2594-2604.",
  "adamw": "Loshchilov I, Hutter F. Decoupled weight decay regularization. ICLR 2019.",
}
_MARKS = {
  "dpo": "Rafailov et al. 2023",
  "orpo": "Hong et al. 2024",
  "simpo": "Meng et al. 2024",
  "kto": "Ethayarajh et al. 2024",
  "batch": "Zhou et al. 2024",
  "content_free": "Zhao et al. 2021",
  "score": "Wilson 1927",
  "jackknife": "Efron and Tibshirani 1993",
  "bca": "Efron 1987",
  "mcnemar": "McNemar 1947",
  "permutation": "Phipson and Smyth 2010",
  "holm": "Holm 1979",
  "few": "Hanley and Lippman-Hand 1983",
  "absence": "Piaggio et al. 2012",
  "adamw": "Loshchilov and Hutter 2019",
}
_METHODS = {
  "base": "the model as it is (base)",
  "few_shot": "the model with answered examples in its prompt (few-shot)",
  "sft": "supervised fine-tuning (SFT)",
  "dpo": f"direct preference optimization (DPO; {_MARKS['dpo']})",
  "dpo_from_base": f"direct preference optimization without SFT (DPO from base; {_MARKS['dpo']})",
  "orpo": f"odds ratio preference optimization (ORPO; {_MARKS['orpo']})",
  "simpo": f"simple preference optimization (SimPO; {_MARKS['simpo']})",
  "kto": f"Kahneman-Tversky optimization (KTO; {_MARKS['kto']})",
}
_UNITS = {"sft": "examples", "kto": "judged answers"}  # of a step; else pairs


def write(study: Mapping[str, Any], runs: Sequence[Mapping[str, Any]] = ()) -> tuple[list[str], list[str]]:
  """Methods in the words of a paper, and the works they cite.

  Args:
    study: what `study.json` holds; what `protocol` and `environment` do not say is left out.
    runs: the training runs, `method, steps` (a line a step) and `config`; may be empty, and `config` absent.

  Returns:
    Paragraphs, and references in the order of their first citation.
  """
  paragraphs = [" ".join(part(study, runs)) for part in (_design, _training, _statistics, _software)]
  text = " ".join(paragraphs)
  cited = sorted((key for key, mark in _MARKS.items() if mark in text), key=lambda key: text.index(_MARKS[key]))
  return [paragraph for paragraph in paragraphs if paragraph], [_CITED[key] for key in cited]


def _design(study, runs) -> Iterator[str]:
  protocol = study.get("protocol", {})
  methods = protocol.get("methods", [])
  model = f" of {protocol['model']}" if protocol.get("model") else ""
  if methods:
    yield f"We compared {_and([_METHODS.get(name, name) for name in methods])}{model}"
    yield f"on {_count(len(protocol['tasks']), 'task')}: {_and([t.replace('_', ' ') for t in protocol['tasks']])}."
  for task, counts in protocol.get("rows", {}).items():
    rows = ", ".join(f"{counts.get(split, 0)} {split}" for split in ("train", "validation", "test"))
    yield f"{task.replace('_', ' ').capitalize()} had {rows} rows at most."
  if "rows" in protocol:
    checked = not any(_get(run, "data.source") and not _get(run, "data.split_by") for run in runs)
    yield (
      "No patient that the data identify was in two splits."
      if checked
      else "Rows were taken as independent: the data name no patient, and whether one is in two splits was not checked."
    )
  sources = {_get(run, "data.source") for run in runs} - {None, ""}
  if sources:
    yield f"They came from {_and(sorted(pathlib.PurePath(source).name for source in sources))}."
  for task, text in protocol.get("data", {}).items():
    yield f"{task.replace('_', ' ').capitalize()}: {text.rstrip('.')}."
  ways: dict[str, list[str]] = {}
  for task, way in protocol.get("answers", {}).items():
    ways.setdefault(way, []).append(task.replace("_", " "))
  if ways:
    yield f"Answers: {'; '.join(f'{way} ({_and(named)})' for way, named in ways.items())}."
  yield from _label_prior(protocol.get("label_prior", {}))
  baselines = list(dict.fromkeys(row["method"] for row in study["results"] if row.get("baseline")))
  if baselines:
    how = protocol.get("baselines", "scored on the same test rows")
    yield f"Baselines without a language model, {how}: {_and(map(names.method, baselines))}."


def _label_prior(prior: Mapping[str, Any]) -> Iterator[str]:
  """One sentence, where a prior was asked for and labels were scored."""
  used = prior.get("used", [])
  if not used:
    return
  mean, mark = {
    "batch": ("over the test rows", _MARKS["batch"]),
    "content_free": ("over prompts without content", _MARKS["content_free"]),
    "validation": ("over the validation rows", f"after {_MARKS['batch']}"),
  }[prior["mode"]]
  count = sum(row["used"] for row in used)
  where = f", where this made the primary metric better there, in {count} of {len(used)} cases"
  yield (
    f"Label probabilities of {_and(map(names.method, prior['methods']))}, which train nothing, were divided by their "
    f"mean {mean} ({mark}){where if prior['mode'] == 'validation' else ''}."
  )


def _training(study, runs) -> Iterator[str]:
  protocol = study.get("protocol", {})
  for method, start in protocol.get("starts", {}).items():
    if method != "sft":
      yield f"{names.method(method)} {start}."
  for method in dict.fromkeys(run["method"] for run in runs):
    own = [run for run in runs if run["method"] == method and "config" in run]
    if own:
      unit = _UNITS.get(method, "pairs")
      beta = f", beta {_span(own, 'preference.beta')}" if method != "sft" else ""
      losses = sorted({_get(run, "preference.loss") for run in own} - {None, "sigmoid", method}) if beta else []
      loss = f", with the loss {_and(losses)}" if losses else ""
      yield (
        f"{names.method(method)} took {_numbers({len(run['steps']) for run in own})} steps of "
        f"{_span(own, 'train.batch_size')} {unit} at a peak learning rate of "
        f"{_span(own, 'optimizer.learning_rate')}{beta}{loss}."
      )
  if {_get(run, "optimizer.name") for run in runs} == {"adamw"}:
    schedules, dtypes = (sorted({_get(run, key) for run in runs}) for key in ("optimizer.schedule", "model.dtype"))
    yield (
      f"Weights were updated by AdamW ({_MARKS['adamw']}; weight decay {_span(runs, 'optimizer.weight_decay')}) with a "
      f"{_and(schedules)} schedule after {_span(runs, 'optimizer.warmup_steps')} warm-up steps, gradients clipped at "
      f"a norm of {_span(runs, 'optimizer.clip_norm')}, computed in {_and(dtypes)}."
    )
  if "seeds" in protocol:
    seeds = [str(seed) for seed in protocol["seeds"]]
    yield f"Every training ran with {'seeds' if len(seeds) > 1 else 'one seed,'} {_and(seeds)}."
  if protocol.get("selection"):
    yield f"Hyperparameters: {protocol['selection']}."
  budget = protocol.get("budget", {})
  if budget.get("spent"):
    yield f"Tuning budgets of the methods were {'equal' if budget['equal'] else 'not equal'}, in {budget['unit']}."


def _statistics(study, runs) -> Iterator[str]:
  protocol, comparisons = study.get("protocol", {}), study["comparisons"]
  primary = dict.fromkeys(names.metric(row["metric"]) for row in study["results"] if row["primary"])
  yield (
    f"Primary metric: {_and(primary)}. Intervals are at 95 % with the patient as the unit: of a value, score intervals "
    f"({_MARKS['score']}) with the jackknife's standard error ({_MARKS['jackknife']}); of a difference, t intervals "
    "with the jackknife's standard error of the paired difference."
  )
  if any(row.get("interval") == "bca" for row in study["results"]):
    resamples = f" of {protocol['resamples']} resamples" if protocol.get("resamples") else ""
    yield f"Metrics without bounds have BCa bootstrap intervals{resamples} ({_MARKS['bca']})."
  tests = {row.get("test") for row in comparisons}
  used = []
  if "mcnemar_exact" in tests:
    used.append(f"McNemar's exact test ({_MARKS['mcnemar']})")
  if tests & {"permutation", None}:
    used.append(f"a permutation test over patients ({_MARKS['permutation']})")
  if comparisons:
    yield (
      f"Differences in the primary metric were tested two-sided by {_and(used)}, with Holm's adjustment over all "
      f"{len(comparisons)} comparisons ({_MARKS['holm']}); other metrics are described and not tested."
    )
  if "margin" in protocol:
    margin = protocol["margin"]
    yield (
      f"The smallest relevant difference was set to {margin:g}. A method was taken to gain where the whole interval "
      "lay on the better side of 0, its better end was above that difference and the adjusted p was below 0.05; a "
      f"relevant gain was taken as excluded where the better end did not exceed it ({_MARKS['absence']}), from at "
      f"least {enough_groups(margin)} patients ({_MARKS['few']})."
    )


def _software(study, runs) -> Iterator[str]:
  environment = study.get("environment", {})
  if "medjax" in environment:
    revision = f" (revision {environment['git_revision'][:12]})" if environment.get("git_revision") else ""
    yield f"Software: medjax {environment['medjax']}{revision}"
    packages = [f"{name} {version}" for name, version in environment.get("packages", {}).items()]
    yield f"on Python {environment.get('python', '3')} with {', '.join(packages)}." if packages else "."
  if "devices" in environment:
    yield f"Hardware: {environment['devices']} ({environment.get('machine', 'machine not recorded')})."


def _get(run: Mapping[str, Any], key: str) -> Any:
  """A config value of a run, None where it is not known."""
  part, name = key.split(".")
  return run.get("config", {}).get(part, {}).get(name)


def _span(runs: Sequence[Mapping[str, Any]], key: str) -> str:
  return _numbers({_get(run, key) for run in runs} - {None})


def _numbers(values: set) -> str:
  """The one value, or the lowest and the highest: `2e-06`, `24 to 75`."""
  return " to ".join(f"{value:g}" for value in sorted({min(values), max(values)})) if values else "an unknown number"


def _and(words) -> str:
  *first, last = list(words) or ["none"]
  return f"{', '.join(first)} and {last}" if first else last


def _count(number: int, noun: str) -> str:
  """`five tasks`."""
  words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
  return f"{words[number] if number < len(words) else number} {noun}{'' if number == 1 else 's'}"
