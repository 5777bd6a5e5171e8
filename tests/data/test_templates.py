"""What is learnt of a conversation, under the chat template of each family: its answers, their ends, nothing else."""

import itertools

import families
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medjax.data.chat import Encoder
from medjax.data.examples import Conversation, Example
from medjax.models.pretrained import load_config_and_tokenizer

FAMILIES = pytest.mark.parametrize("family", families.FAMILIES.values(), ids=families.FAMILIES)
SYSTEM = {"role": "system", "content": "Answer briefly."}


def ask(text):
  return {"role": "user", "content": text}


def say(text):
  return {"role": "assistant", "content": text}


TURNS = (ask("Fever of 39.5 °C?"), say("Since when?"), ask("2 days.\n\nNa⁺ 128"), say("- Admit\n- Give 0.9 %"))
FORMS = {
  "single": TURNS[:2],
  "system": (SYSTEM, *TURNS[:2]),
  "turns": (*TURNS, ask("Dose?"), say("5 mg")),
  "system and turns": (SYSTEM, *TURNS),
}


def item(messages):
  several = sum(message["role"] == "assistant" for message in messages) > 1
  return Conversation("a", messages) if several else Example("a", messages[:-1], messages[-1]["content"])


def scored(segments):
  """The runs of scored tokens of a group."""
  assert len(segments.completions) == 1
  return [ids for ids, learnt in segments.runs if learnt]


def as_printed(family, messages):
  """Messages as the template is given them: the system's within the user's where it has no place for them."""
  if family.system or messages[0]["role"] != "system":
    return messages
  return (ask(f"{messages[0]['content']}\n\n{messages[1]['content']}"), *messages[2:])


def check(family, messages):
  """Holds all groups of a conversation to what transformers makes of it; returns the groups."""
  encoder = Encoder(family.tokenizer)
  groups = encoder.segments([item(messages)])
  answers = [message["content"] for message in messages if message["role"] == "assistant"]
  runs = [family.spelled(run) for group in groups for run in scored(group)]
  assert runs == [family.printed(answer) + family.end for answer in answers]
  printed = as_printed(family, messages)
  keeps = family.keeps == "always" or family.keeps == "without system" and messages[0]["role"] != "system"
  if keeps or len(answers) == 1:
    (group,) = groups
    assert group.id == "a"
    ids = list(group.prompt + group.completions[0])
    if keeps or family.keeps == "never":  # the last answer stays as it is in any case, but not the system message
      whole = family.rendered(printed, False)()["input_ids"]
      assert whole[: len(ids)] == ids, "the tokenizer's own ids of the whole conversation"
      assert set(family.spelled(whole[len(ids) :]).removesuffix("<|endoftext|>")) <= {"\n", " "}
  else:
    assert [group.id for group in groups] == [f"a/turn-{number}" for number in range(1, len(answers) + 1)]
  places = [at for at, message in enumerate(printed) if message["role"] == "assistant"]
  starts = []
  for group in groups:
    before = list(group.prompt)
    for ids, learnt in group.runs:
      starts += [list(before)] if learnt else []
      before += ids
  asked = [family.rendered(printed[:at], True)()["input_ids"] for at in places]
  assert starts == asked, "what precedes an answer is what the model sees when it is to answer"
  assert [
    list(ids) for ids in encoder.prompts([messages[: at + len(messages) - len(printed)] for at in places])
  ] == asked
  return groups


@FAMILIES
@pytest.mark.parametrize("form", FORMS)
def test_answers_and_their_ends_are_scored_and_nothing_else(family, form):
  for group in check(family, FORMS[form]):
    if family.bos:
      bos = family.tokenizer.bos_token_id
      assert group.prompt[0] == bos != group.prompt[1]


def test_bos_is_there_once_unless_the_template_starts_every_turn_with_it():
  for name, family in families.FAMILIES.items():
    for group in Encoder(family.tokenizer).segments([item(FORMS["turns"])]) if family.bos else ():
      count = (group.prompt + group.completions[0]).count(family.tokenizer.bos_token_id)
      assert count == (3 if name == "llama 2" else 1)


PIECES = st.sampled_from([" ", "  ", "\n", "\n\n", "\t", "\r\n"]) | st.text(
  st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\u2581"), max_size=8
)
TEXTS = st.lists(PIECES, min_size=1, max_size=4).map("".join).filter(str.strip)


@FAMILIES
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(TEXTS, min_size=2, max_size=6), system=st.none() | TEXTS)
def test_any_conversation_keeps_its_answers(family, texts, system):
  texts = texts[: len(texts) // 2 * 2]
  assume(not any(mark in text for mark in ("think", "INST", "<|", "<s>") for text in (*texts, system or "")))
  turns = [(ask, say)[at % 2](text) for at, text in enumerate(texts)]
  check(family, ({"role": "system", "content": system}, *turns) if system else tuple(turns))


TAGGED = ["llama 3", "qwen 2.5", "gemma 2", "gemma 3", "phi 3", "phi 3.5"]


@pytest.mark.parametrize("name", TAGGED)
def test_the_mask_of_transformers_from_tagged_templates_agrees(name):
  """But for what TRL's tags take in besides: newlines around a turn, and the EOS that Phi's templates end with."""
  family = families.FAMILIES[name]
  (group,) = check(family, FORMS["turns"])
  tagged = families.Family(f"{family.template}_training", "", "", None, "").text
  made = family.rendered(FORMS["turns"], False, tagged)(return_dict=True, return_assistant_tokens_mask=True)
  runs = itertools.groupby(zip(made["input_ids"], made["assistant_masks"], strict=True), key=lambda pair: pair[1])
  found = [family.spelled([token for token, _ in run]).strip("\n") for marked, run in runs if marked]
  assert [text.removesuffix("<|endoftext|>") for text in found] == [family.spelled(run) for run in scored(group)]


@pytest.fixture(scope="module")
def embedded():
  return load_config_and_tokenizer("embedded:smollm2-135m").tokenizer


@pytest.mark.parametrize("form", FORMS)
def test_the_embedded_model_reads_a_conversation_as_its_tokenizer_does(embedded, form):
  messages = FORMS[form]
  (group,) = Encoder(embedded).segments([item(messages)])
  whole = embedded.apply_chat_template([dict(message) for message in messages])["input_ids"]
  assert list(group.prompt + group.completions[0]) + embedded("\n")["input_ids"] == whole
  answers = [message["content"] for message in messages if message["role"] == "assistant"]
  assert [embedded.decode(run) for run in scored(group)] == [answer + "<|im_end|>" for answer in answers]


def test_an_answer_that_starts_with_a_newline_is_not_joined_with_the_prompt(embedded):
  """Of the whole text the tokenizer makes one token of both newlines, which no model that answers has seen."""
  messages = (ask("Fever?"), say("\nYes."), ask("Since?"), say("\n\n2 days."))
  (group,) = Encoder(embedded).segments([item(messages)])
  ids = list(group.prompt + group.completions[0])
  whole = embedded.apply_chat_template([dict(message) for message in messages])["input_ids"]
  assert ids != whole[: len(ids)]
  assert embedded.decode(ids) + "\n" == embedded.decode(whole)
  assert [embedded.decode(run) for run in scored(group)] == ["\nYes.<|im_end|>", "\n\n2 days.<|im_end|>"]
