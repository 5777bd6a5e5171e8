"""A checklist in the manner of TRIPOD-LLM: what a study recorded under each item, and what its authors must add.

Numbers and order are those of Gallifant et al. 2025 (Nature Medicine 31:60-69); the items are named in our own words,
and the guideline itself says what each asks for.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from medjax.study import names

CITATION = (
  "Gallifant J, Afshar M, Ameen S, et al. The TRIPOD-LLM reporting guideline for studies using large language models. "
  "Nat Med 2025;31:60-69. doi:10.1038/s41591-024-03425-5."
)
AUTHORS = "To be filled in by the authors."

Study = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Item:
  """An item: what the study says of it (nothing: the authors must), and what they must add to that."""

  number: str
  section: str
  topic: str
  says: Callable[[Study], str] = lambda study: ""
  more: str = ""


def fill(study: Study) -> list[dict[str, str]]:
  """Every item with what is known of it.

  Args:
    study: what `study.json` holds; what is not in it is left to the authors.

  Returns:
    Rows of `number, section, topic, found` (empty where nothing is known)`, left` (what the authors must fill in).
  """
  rows = []
  for item in ITEMS:
    found = item.says(study)
    left = item.more if found else AUTHORS
    rows.append({"number": item.number, "section": item.section, "topic": item.topic, "found": found, "left": left})
  return rows


def _protocol(study: Study, key: str) -> Any:
  return study.get("protocol", {}).get(key)


def _tasks(study: Study) -> str:
  return ", ".join(dict.fromkeys(names.target(row) for row in study["results"]))


def _model(study: Study) -> str:
  return str(_protocol(study, "model") or "")


def _methods(study: Study) -> str:
  return ", ".join(map(names.method, _protocol(study, "methods") or []))


def _title(study: Study) -> str:
  kind = "Fine-tuning and evaluation" if study.get("training") else "Evaluation"
  return f"{kind} of {_model(study) or 'a language model'}: {_tasks(study)}."


def _splits(study: Study) -> str:
  parts = [
    f"{task.replace('_', ' ')}: " + ", ".join(f"{count} {split}" for split, count in counts.items())
    for task, counts in (_protocol(study, "rows") or {}).items()
  ]
  return f"Rows at most: {'; '.join(parts)}." if parts else ""


def _building(study: Study) -> str:
  methods = _methods(study)
  return f"{methods}; settings in Training." if methods and study.get("training") else methods


def _metrics(study: Study) -> str:
  found = dict.fromkeys(names.metric(row["metric"]) for row in study["results"] if row["primary"])
  return f"Primary: {', '.join(found)}, on rows held out of training and of selection; all others in All metrics."


def _main_results(study: Study) -> str:
  return "Verdict and Results." if study["recommendations"] else ""


def _sources(study: Study) -> str:
  cards = study.get("data", {})
  return "; ".join(f"{task.replace('_', ' ')}: {card['source']}" for task, card in cards.items()) + "." * bool(cards)


def _distribution(study: Study) -> str:
  return "Rows, patients and labels by split in Data." if study.get("data") else ""


def _omitted(study: Study) -> str:
  cards = study.get("data", {})
  if not cards:
    return ""
  left_out = sum(card["left_out"] for card in cards.values())
  return f"{left_out} rows left out for want of a label; repeated prompts counted in Data."


def _version(study: Study) -> str:
  finished = study.get("environment", {}).get("finished")
  return f"{_model(study)}, run until {finished}." if _model(study) and finished else _model(study)


def _settings(study: Study) -> str:
  answers = "; ".join(dict.fromkeys((_protocol(study, "answers") or {}).values()))
  selection = _protocol(study, "selection")
  said = [answers and f"Answers: {answers}", selection and f"hyperparameters: {selection}", "seeds in Training"]
  return f"{'; '.join(filter(None, said))}." if answers or selection else ""


def _development(study: Study) -> str:
  return "Methods; curves and settings in Training." if study.get("training") else ""


def _output(study: Study) -> str:
  answers = _protocol(study, "answers") or {}
  return "; ".join(f"{task.replace('_', ' ')}: {way}" for task, way in answers.items())


def _thresholds(study: Study) -> str:
  return "The likeliest label, unless the task decides otherwise; see Calibration." if study.get("calibration") else ""


def _quality(study: Study) -> str:
  texts = [row for row in study["results"] if row["metric"].startswith(("rouge", "fact_", "invention"))]
  return "Facts stated and invented, ROUGE, length: All metrics." if texts else ""


def _compared(study: Study) -> str:
  baselines = dict.fromkeys(names.method(row["method"]) for row in study["results"] if row.get("baseline"))
  beside = f"; baselines: {', '.join(baselines)}" if baselines else ""
  return f"Paired comparisons of {_methods(study)} on the same rows{beside}." if study["comparisons"] else ""


def _compute(study: Study) -> str:
  where = study.get("environment", {}).get("devices")
  return f"{where}; tokens, hours and FLOPs in Cost." if where and study.get("cost") else ""


def _code(study: Study) -> str:
  environment = study.get("environment", {})
  if "medjax" not in environment:
    return ""
  revision = f", revision {environment['git_revision']}" if environment.get("git_revision") else ""
  return f"medjax {environment['medjax']}{revision}; config {_protocol(study, 'config') or 'not recorded'}."


def _fingerprints(study: Study) -> str:
  return "Fingerprints of every split in Data; they name the rows and do not hold them." if study.get("data") else ""


def _flow(study: Study) -> str:
  return f"{_splits(study)} Labels by split in Data." if study.get("data") else ""


def _comparable(study: Study) -> str:
  return "Labels by split in Data." if study.get("data") else ""


def _events(study: Study) -> str:
  sizes = dict.fromkeys(f"{names.target(row)} {row['n']}" for row in study["results"] if row["primary"])
  return f"Test rows: {', '.join(sizes)}; labels by split in Data." if study.get("data") else ""


def _performance(study: Study) -> str:
  return "Results, Differences, All metrics, with intervals" + (", and Subgroups." if study.get("subgroups") else ".")


def _fairness(study: Study) -> str:
  columns = dict.fromkeys(row["column"] for row in study.get("subgroups", []))
  return f"Results by {', '.join(columns)} in Subgroups." if columns else ""


def _limits(study: Study) -> str:
  return "Limits lists what follows from the study's own record."


_CONTEXT = "care setting, use case and reasons"
ITEMS = (
  Item("1", "Title", "what kind of study of a language model, task, population, outcome", _title, "The population."),
  Item("2a", "Abstract", _CONTEXT),
  Item("2b", "Abstract", "objectives"),
  Item("2c", "Abstract", "setting"),
  Item("2d", "Abstract", "data, splits, selective use", _splits, "Who the rows are of."),
  Item("2e", "Abstract", "name and version of the model", _model),
  Item("2f", "Abstract", "how it was built or tuned", _building),
  Item("2g", "Abstract", "tasks, inputs and outputs", _tasks, "The inputs."),
  Item("2h", "Abstract", "evaluation data, whether held out, measures", _metrics),
  Item("2i", "Abstract", "main results", _main_results, "Their meaning in words."),
  Item("2j", "Abstract", "wider implications and concerns"),
  Item("2k", "Abstract", "registration"),
  Item("3a", "Introduction", f"{_CONTEXT}, earlier approaches"),
  Item("3b", "Introduction", "target population, intended use and users, place in care"),
  Item("4", "Introduction", "objectives: development, tuning or validation"),
  Item("5a", "Data", "sources of training, tuning and evaluation data, and why these", _sources, "Why these data."),
  Item("5b", "Data", "distributions and descriptors", _distribution, "Language, country, what the rows are."),
  Item("5c", "Data", "dates of the oldest and newest text"),
  Item("5d", "Data", "pre-processing and quality checks", _omitted, "What was done before medjax read the data."),
  Item("5e", "Data", "missing and imbalanced data, omissions", _omitted, "Why rows lack a label."),
  Item("6a", "Analysis", "model, version, last date of training or use", _version, "The provider's release date."),
  Item("6b", "Analysis", "architecture, tuning, prompts, inference settings", _settings, "How prompts were written."),
  Item("6c", "Analysis", "from text to output: training, alignment and its goals", _development, "The goals."),
  Item("6d", "Analysis", "initial and processed output", _output),
  Item("6e", "Analysis", "probabilities, classes and thresholds", _thresholds, "Why these classes."),
  Item("7a", "Output", "quality of generated text against references", _quality, "Human judgement, if any."),
  Item("7b", "Output", "relevance of the metrics to use; agreement with human evaluation"),
  Item("7c", "Output", "outcome, how predictions are computed, metrics", _metrics, "The clinical outcome."),
  Item("7d", "Output", "assessors, their instructions and agreement, where judged by people"),
  Item("7e", "Output", "how compared with other models, people, benchmarks", _compared, "People, if compared."),
  Item("8a", "Annotation", "how text was labelled, guidelines"),
  Item("8b", "Annotation", "number of annotators, share labelled twice"),
  Item("8c", "Annotation", "annotators' background and agreement"),
  Item("9a", "Prompting", "how prompts were designed and chosen"),
  Item("9b", "Prompting", "data that prompts were developed on"),
  Item("10", "Summarization", "pre-processing of the data"),
  Item("11", "Instruction tuning", "instructions, interface and people of the evaluation"),
  Item("12", "Compute", "machines, time, FLOPs", _compute, "Money or energy, if known."),
  Item("13", "Ethics", "approval and consent"),
  Item("14a", "Open science", "funding"),
  Item("14b", "Open science", "conflicts of interest"),
  Item("14c", "Open science", "protocol"),
  Item("14d", "Open science", "registration"),
  Item("14e", "Open science", "data", _fingerprints, "Where the data can be had."),
  Item("14f", "Open science", "code", _code, "Where the config can be had."),
  Item("15", "Public involvement", "patients and public"),
  Item("16a", "Participants", "flow of texts and patients, with and without the outcome", _flow, "Follow-up."),
  Item("16b", "Participants", "characteristics overall and by source and split, dates"),
  Item("16c", "Participants", "development and evaluation data compared", _comparable, "Other predictors."),
  Item("16d", "Participants", "participants and events in each analysis", _events),
  Item("17", "Performance", "by the metrics set out before", _performance),
  Item("18", "Updating", "results of updating the model"),
  Item("19a", "Discussion", "interpretation, fairness, earlier studies", _fairness, "The interpretation."),
  Item("19b", "Discussion", "limitations", _limits, "Those of the data and of the setting."),
  Item("19c", "Discussion", "known difficulties of such data"),
  Item("19d", "Discussion", "intended use, input, user, autonomy and oversight"),
  Item("19e", "Discussion", "poor or missing input in use"),
  Item("19f", "Discussion", "users' part and expertise"),
  Item("19g", "Discussion", "next steps"),
)
