import pytest
from rouge_score import rouge_scorer

from medjax.errors import UserError
from medjax.evaluation.text_metrics import TEXT_METRICS, numbers, score_text, stated, unsupported_numbers
from medjax.tasks.task import Facts

SOURCE = (
  "Mrs Lee, 71, left hip pain, takes metoprolol 50 mg twice daily. Potassium 3.1. No chest pain. No known allergies."
)
REFERENCE = "Mrs Lee, 71: left hip pain. Potassium 3.1. Metoprolol 50 mg."
FACTS = Facts(
  must={"problem": (r"left hip",), "potassium": (r"\b3\.1\b", "hypokal"), "dose": (r"metoprolol 50 ?mg",)},
  must_not={"side": (r"right hip",), "denied": (r"(?<!no )chest pain",), "dose": (r"metoprolol (?!50\b)\d+",)},
)


def score(prediction):
  return score_text(prediction, REFERENCE, SOURCE, FACTS)


@pytest.mark.parametrize(
  ("prediction", "f1", "recall", "invention"),
  [
    (REFERENCE, 1.0, 1.0, 0.0),
    ("LEFT HIP pain, no chest pain", 2 * 1 * (1 / 3) / (1 + 1 / 3), 1 / 3, 0.0),  # 1 kept, none invented
    (
      "left hip and chest pain, hypokalaemia",
      2 * (2 / 3) * (2 / 3) / (2 / 3 + 2 / 3),
      2 / 3,
      1.0,
    ),  # 2 kept, 1 invented
    ("left hip, 3.1, metoprolol 500 mg", 2 / 3, 2 / 3, 1.0),  # the wrong dose counts once, not as a number again
    ("left hip, 3.1, metoprolol 50 mg, 88 bpm", 2 * 0.75 * 1 / 1.75, 1.0, 1.0),  # 88 is nowhere in the source
    ("right hip, chest pain", 0.0, 0.0, 1.0),
    ("all well", 0.0, 0.0, 0.0),
  ],
)
def test_fact_metrics_by_hand(prediction, f1, recall, invention):
  values = score(prediction)
  assert values["fact_f1"] == pytest.approx(f1, abs=1e-12)
  assert values["fact_recall"] == pytest.approx(recall)
  assert values["invention_rate"] == invention


def test_every_metric_in_order_and_its_direction():
  assert list(score(REFERENCE)) == list(TEXT_METRICS)
  assert TEXT_METRICS["invention_rate"].higher_is_better is False
  assert TEXT_METRICS["length_ratio"].higher_is_better is None
  assert [name for name, metric in TEXT_METRICS.items() if metric.per_item] == ["invention_rate", "exact_match"]


def test_rouge_is_the_package_with_stemmer_and_f_measure():
  scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
  for prediction in ("Mrs Lee has left hip pains", "hip pain left, potassium 3.1 low", "nothing in common?"):
    expected = scorer.score(REFERENCE, prediction)
    values = score(prediction)
    for name, triple in expected.items():
      assert values[name] == pytest.approx(triple.fmeasure)
  # "the cat sat" and "cats sat": unigrams (stemmed) 2 of 3 and 2 of 2, bigrams 1 of 2 and 1 of 1.
  values = score_text("cats sat", "the cat sat", "", Facts({"cat": ("cat",)}, {}))
  assert values["rouge1"] == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
  assert values["rouge2"] == pytest.approx(2 * 0.5 / 1.5)
  assert values["length_ratio"] == pytest.approx(2 / 3)


def test_empty_prediction_has_zero_everywhere():
  assert set(score(" \n").values()) == {0.0}


def test_what_counts_as_a_number():
  text = "62-year-old, 120/80, 50mg, 7.5%, 1,200 ml, B12, SpO2 97, T4, 2x, 3."
  assert numbers(text) == ["62", "120", "80", "50", "7.5", "1200", "97", "2", "3"]
  assert numbers("CO2 on 12.5.2026, ranks 1,5 and 4,10") == ["12.5", "2026", "1", "5", "4", "10"]


def test_numbers_are_supported_by_value_or_word():
  assert unsupported_numbers("7.50 mg, 2 tablets, 1200 ml", "7.5 mg, two tablets, 1,200 ml") == []
  assert unsupported_numbers("75 mg for 3 days, 3 more, 9", "7.5 mg") == ["75", "3", "9"]
  assert unsupported_numbers("5 mg", "0.5 mg") == ["5"]


def test_stated_gives_spans_in_order():
  assert stated("Left hip, left HIP", {"none": ("knee",), "side": ("left hip",)}) == {"side": [(0, 8), (10, 18)]}


def test_what_cannot_be_judged_is_named():
  with pytest.raises(UserError, match="fact 'dose': .* is no regular expression"):
    score_text("x", "y", "z", Facts({"dose": ("(50",)}, {}))
  with pytest.raises(UserError, match="facts.must is empty"):
    score_text("x", "y", "z", Facts({}, {}))
  with pytest.raises(UserError, match="reference text is empty"):
    score_text("x", " ", "z", FACTS)
