import re

import hash_seeds
import pytest

from medjax.tasks import simulator
from medjax.tasks.simulator_draws import Draws, expand
from medjax.tasks.simulator_patients import PROFILES, patient

SPLITS = ("train", "validation", "test")
ALL = [message for split in SPLITS for message in simulator.messages(split)]


def live(message):
  return message.findings[0].text


def numbers(text):
  return [float(value) for value in re.findall(r"\d+(?:\.\d+)?", text)]


def fahrenheit_or_celsius(value):
  return (value - 32) / 1.8 if value > 90 else value


def about(topic, *needed):
  return [message for message in ALL if message.topic == topic and all(word in live(message) for word in needed)]


def test_draws_are_the_documented_bit_stream():
  # Values of PCG64(SeedSequence([1, 2, 3])), which NumPy promises for good.
  draws = Draws(1, 2, 3)
  assert [draws.below(1000) for _ in range(5)] == [616, 483, 571, 86, 63]
  assert sorted(Draws(0).shuffled(range(6))) == list(range(6))


def test_template_grammar():
  draws = Draws(7)
  text = expand(draws, "[a [b|c]|d] {3-5} {1.5-1.9} {who} !", lambda name: f"<{name}>")
  assert re.fullmatch(r"(a b|a c|d) [345] 1\.[5-9] <who>!", text)
  with pytest.raises(KeyError):
    expand(draws, "{nobody}", {}.__getitem__)


def test_same_messages_in_another_process_with_another_hash_seed():
  code = (
    "from medjax.tasks import simulator as s; import hashlib;"
    "print(hashlib.sha256('|'.join(m.text for m in s.messages('test')).encode()).hexdigest())"
  )
  assert len(hash_seeds.values(code)) == 1


def test_patients_are_consistent():
  for index in range(500):
    person = patient(simulator.SEED, index)
    low, high = person.profile.ages
    assert low <= person.age <= high
    assert (person.weeks_pregnant > 0) == ("pregnant" in person.profile.tags)
    assert not person.weeks_pregnant or person.sex == "F"
    assert person.vitals["systolic"] > person.vitals["diastolic"]
  assert patient(simulator.SEED, 3) == patient(simulator.SEED, 3) != patient(simulator.SEED, 4)


def test_every_concern_can_be_had_and_is_well_formed():
  possible = {tag for profile in PROFILES for tag in profile.tags}
  possible |= {drug.replace("_", " ") for profile in PROFILES for choice in profile.drugs for drug in choice}
  for item in simulator.CONCERNS:
    assert item.needs and item.needs <= possible, item
    assert (item.urgency == "routine") == (not item.drivers), item
    assert item.urgency != "emergency" or item.provider == "physician", item
    assert item.provider != "clerk" or item.urgency != "emergency", item


def test_urgency_above_routine_has_a_driver_and_first_finding_is_live():
  for message in ALL:
    assert bool(message.drivers) == (message.urgency != "routine")
    assert [finding.status for finding in message.findings].count("live") == 1
    assert message.findings[0].status == "live"
    for finding in message.findings[1:]:
      assert finding.status in ("lesser", "closed")


def test_what_the_label_needs_of_the_background_is_in_the_text():
  telling = {item.topic: item for item in simulator.CONCERNS if item.tell}
  for message in ALL:
    if message.topic == "headinjury" and "anticoagulant" in message.drivers:
      assert re.search("warfarin|coumadin|apixaban|eliquis|rivaroxaban|xarelto", message.background.lower())
    if message.topic == "fever" and message.urgency == "emergency" and "chemotherapy" in message.drivers:
      assert "chemo" in message.background
    if message.topic == "pressure" and any("pregnancy" in driver for driver in message.drivers):
      assert "pregnant" in message.background
    if message.topic == "fever" and message.patient.profile.name == "infant":
      assert f"{message.patient.age} week" in message.background
  assert telling


def test_lesser_matters_are_routine_and_beside_something_worse():
  for message in ALL:
    if any(finding.status == "lesser" for finding in message.findings):
      assert message.urgency != "routine"


def test_urgency_of_sugar_follows_from_the_numbers():
  seen = set()
  for message in about("sugar"):
    values = [value for value in numbers(live(message)) if value > 20]
    low, high = min(values), max(values)
    expected = "emergency" if low < 54 or high > 400 else "urgent" if low < 70 or high > 250 else "routine"
    assert message.urgency == expected, live(message)
    seen.add(expected)
  assert seen == {"routine", "urgent", "emergency"}


@pytest.mark.parametrize(
  ("word", "emergency", "urgent"),
  [
    ("potassium", lambda v: v > 6.5, lambda v: v > 5.5),
    ("sodium", lambda v: v < 120, lambda v: v < 130),
    ("Hb", lambda v: v < 6, lambda v: v < 8),
  ],
)
def test_urgency_of_results_follows_from_the_present_value(word, emergency, urgent):
  seen = set()
  for message in about("result", word):
    text = live(message)
    value = numbers(text.split("today")[-1] if ", today" in text else text)[0]
    expected = "emergency" if emergency(value) else "urgent" if urgent(value) else "routine"
    assert message.urgency == expected, text
    seen.add(expected)
  assert seen == {"routine", "urgent", "emergency"}


def test_urgency_of_blood_pressure_follows_from_numbers_and_pregnancy():
  for message in about("pressure"):
    systolic = numbers(live(message))[0]
    if message.patient.weeks_pregnant:
      expected = "emergency" if systolic >= 160 else "urgent"
    else:
      symptoms = re.search("with a pounding|with chest|with blurry", live(message))
      expected = "emergency" if symptoms else "urgent" if systolic >= 180 else "routine"
    assert message.urgency == expected, live(message)


def test_fever_needs_attention_at_once_in_infants_and_under_chemotherapy_only():
  for message in about("fever", "temp"):
    degrees = [fahrenheit_or_celsius(value) for value in numbers(live(message)) if value > 30]
    feverish = max(degrees) >= 38
    if message.patient.profile.name in ("infant", "chemotherapy"):
      assert (message.urgency == "emergency") == feverish, message.text
    elif not feverish:
      assert message.urgency == "routine", message.text


def test_paracetamol_count_decides():
  doses = about("dose", "500s")
  assert {message.urgency for message in doses} == {"routine", "emergency"}
  for message in doses:
    assert (message.urgency == "emergency") == (numbers(live(message))[0] * 0.5 >= 10), live(message)


def test_saturation_below_90_is_never_less_than_an_emergency():
  for message in about("breath", "oximeter"):
    saturation = [value for value in numbers(live(message)) if 80 <= value <= 100][0]
    expected = {"emergency"} if saturation < 90 else {"urgent"} if saturation < 94 else {"routine"}
    assert {message.urgency} == expected, live(message)


def test_same_topic_stands_under_several_urgencies():
  urgencies = {}
  for message in ALL:
    urgencies.setdefault(message.topic, set()).add(message.urgency)
  for topic in ("chest", "breath", "headache", "stroke", "headinjury", "sugar", "pressure", "fever", "dose", "refill"):
    assert len(urgencies[topic]) > 1, topic


def test_no_patient_in_two_splits_and_no_text_twice():
  patients = {split: {message.patient.index for message in simulator.messages(split)} for split in SPLITS}
  assert not patients["train"] & patients["test"]
  assert not patients["train"] & patients["validation"]
  assert not patients["validation"] & patients["test"]
  texts = [" ".join(re.findall(r"\w+", message.text.lower())) for message in ALL]
  assert len(set(texts)) == len(texts)


def test_near_duplicates_of_test_messages_are_rare():
  def shingles(message):
    words = re.findall(r"\w+", message.text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))

  train = [shingles(message) for message in simulator.messages("train")]
  near = 0
  for message in simulator.messages("test"):
    mine = shingles(message)
    near += any(len(mine & other) > 0.7 * len(mine | other) for other in train)
  assert near <= 0.02 * len(simulator.messages("test"))
