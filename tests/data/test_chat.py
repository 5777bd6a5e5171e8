import dataclasses
import itertools

import pytest
import tokenizers
import transformers

from medjax.data import chat
from medjax.data.examples import Conversation, Example, PreferencePair, Segments
from medjax.data.packing import row_tokens
from medjax.errors import UserError
from medjax.models.pretrained import load_config_and_tokenizer

CHATML = (
  "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
  "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
  "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}"
  "{% endfor %}"
)
SYSTEM = {"role": "system", "content": "Answer with one word."}
USER = {"role": "user", "content": "Fever of 39.5 °C since 2 days?"}
NO, YES = ({"role": "assistant", "content": text} for text in ("No", "Yes"))


def make_tokenizer(template=CHATML, add_bos=False, pad=None):
  """A byte-level tokenizer with no merges: one token a byte, and four special tokens."""
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  backend = tokenizers.Tokenizer(tokenizers.models.BPE({char: i for i, char in enumerate(alphabet)}, []))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = tokenizers.decoders.ByteLevel()
  backend.add_special_tokens(["<s>", "</s>", "<|start|>", "<|end|>"])
  if add_bos:
    backend.post_processor = tokenizers.processors.TemplateProcessing(
      "<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token=pad, chat_template=template
  )


def make_sentencepiece():
  """A tokenizer that puts a space before any text, as Llama 2's does."""
  vocabulary = {
    "<unk>": 0,
    "<s>": 1,
    "</s>": 2,
    "\u2581": 3,
    "\n": 4,
    **{char: 5 + i for i, char in enumerate("abcdef")},
  }
  backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>"))
  backend.normalizer = tokenizers.normalizers.Sequence(
    [tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")]
  )
  return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def test_segments_of_messages_spell_the_rendered_chat():
  tokenizer = make_tokenizer()
  (segments,) = chat.Encoder(tokenizer).segments([Example("a", (SYSTEM, USER), "Yes")])
  full = tokenizer.apply_chat_template([SYSTEM, USER, {"role": "assistant", "content": "Yes"}], tokenize=False)
  assert list(segments.prompt + segments.completions[0]) == tokenizer(full.rstrip(), add_special_tokens=False).input_ids
  assert tokenizer.decode(segments.completions[0]) == "Yes<|end|>"


@pytest.mark.parametrize("add_bos", [False, True])
def test_of_a_text_every_token_is_scored_but_the_first(add_bos):
  tokenizer = make_tokenizer(add_bos=add_bos)
  (text,) = chat.Encoder(tokenizer).segments([Example("r", None, "No fever.")])
  ids = tokenizer("No fever.")["input_ids"]
  assert text == Segments("r", tuple(ids[:1]), ((*ids[1:], tokenizer.eos_token_id),))


def test_pair_and_answers_share_one_prompt():
  encoder = chat.Encoder(make_tokenizer())
  pair, scored = encoder.segments(
    [PreferencePair("p", (USER,), "good", "bad"), ("s", (USER,), ["low", "high", "none"])]
  )
  assert pair.prompt == scored.prompt
  decode = encoder.tokenizer.decode
  assert [decode(ids) for ids in pair.completions] == ["good<|end|>", "bad<|end|>"]
  assert [decode(ids) for ids in scored.completions] == ["low<|end|>", "high<|end|>", "none<|end|>"]


@pytest.mark.parametrize("template", [CHATML, NO_SYSTEM])
@pytest.mark.parametrize("prompt", ["plain text", "<s>written out", (USER,)])
def test_bos_is_there_once_where_the_tokenizer_adds_it(template, prompt):
  tokenizer = make_tokenizer(template, add_bos=True)
  (segments,) = chat.Encoder(tokenizer).segments([Example("a", prompt, "ok")])
  assert segments.prompt[0] == tokenizer.bos_token_id
  assert (segments.prompt + segments.completions[0]).count(tokenizer.bos_token_id) == 1


def test_no_bos_where_the_tokenizer_adds_none():
  (segments,) = chat.Encoder(make_tokenizer()).segments([Example("a", "plain", "ok")])
  assert segments.prompt == tuple(make_tokenizer()("plain").input_ids)


def test_eos_ends_a_plain_answer_also_where_it_is_the_padding_token():
  tokenizer = make_tokenizer(pad="</s>")
  assert tokenizer.pad_token_id == tokenizer.eos_token_id
  (segments,) = chat.Encoder(tokenizer).segments([Example("a", "Q:", "  two spaces ")])
  assert segments.completions[0][-1] == tokenizer.eos_token_id
  assert tokenizer.decode(segments.completions[0][:-1]) == "  two spaces "


def test_eos_is_added_where_the_template_ends_no_turn():
  template = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
  )
  tokenizer = make_tokenizer(template)
  (segments,) = chat.Encoder(tokenizer).segments([Example("a", (USER,), "Yes")])
  assert tokenizer.decode(segments.completions[0]) == "Yes\n</s>"
  # No end stands between the turns of a conversation, so each answer has a group of its own.
  turns = chat.Encoder(tokenizer).segments([Conversation("a", (USER, NO, USER, YES))])
  assert [group.id for group in turns] == ["a/turn-1", "a/turn-2"]
  assert [tokenizer.decode(group.completions[0]) for group in turns] == ["No\n</s>", "Yes\n</s>"]
  assert (
    tokenizer.decode(turns[1].prompt) == f"user: {USER['content']}\nassistant: No\nuser: {USER['content']}\nassistant: "
  )


def test_of_a_conversation_the_answers_count_and_nothing_else():
  tokenizer = make_tokenizer()
  (group,) = chat.Encoder(tokenizer).segments([Conversation("a", (SYSTEM, USER, NO, USER, YES))])
  assert tokenizer.decode(group.prompt).endswith(f"{USER['content']}<|end|>\n<|start|>assistant\n")
  between = f"\n<|start|>user\n{USER['content']}<|end|>\n<|start|>assistant\n"
  assert tokenizer.decode(group.completions[0]) == f"No<|end|>{between}Yes<|end|>"
  assert group.weights == ((1.0,) * 3 + (0.0,) * len(tokenizer(between).input_ids) + (1.0,) * 4,)


def test_an_answer_that_nothing_asks_for_is_read_and_not_learnt():
  tokenizer = make_tokenizer()
  (group,) = chat.Encoder(tokenizer).segments([Conversation("a", (NO, USER, NO, USER, YES))])
  assert tokenizer.decode(group.prompt).startswith("<|start|>assistant\nNo<|end|>")
  assert sum(group.weights[0]) == len("No") + len("Yes") + 2


def test_the_weight_of_an_example_is_that_of_its_scored_tokens():
  encoder = chat.Encoder(make_tokenizer())
  items = [
    Example("a", "Q:", " A", weight=0.5),
    Example("b", (USER,), "Yes", ("No",), 2.0),
    Example("c", None, "note", weight=3.0),
    Example("d", "Q:", " A", weight=1.0),
  ]
  weights = [group.weights for group in encoder.segments(items)]
  assert weights == [((0.5,) * 3,), ((2.0,) * 4, (2.0,) * 3), ((3.0,) * 4,), None]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused_with_the_row(weight):
  with pytest.raises(UserError, match="row e1: its weight is .*; weights must be above 0"):
    chat.Encoder(make_tokenizer()).segments([Example("e1", "a", "b", weight=weight)])


def test_a_template_that_prints_the_date_prints_the_same_one_every_day():
  template = "{{ strftime_now('%d %B %Y') }}: " + CHATML
  (ids,) = chat.Encoder(make_tokenizer(template)).prompts([(USER,)])
  assert make_tokenizer().decode(ids).startswith("26 July 2024: <|start|>user")


def test_what_a_template_writes_behind_the_end_of_the_last_turn_is_not_learnt():
  tokenizer = make_tokenizer(CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}")
  (pair,) = chat.Encoder(tokenizer).segments([PreferencePair("a", (USER,), "Yes", "No</s>")])
  assert [tokenizer.decode(ids) for ids in pair.completions] == ["Yes<|end|>", "No</s><|end|>"]


def test_system_message_moves_into_the_first_user_message_where_the_template_has_none():
  encoder = chat.Encoder(make_tokenizer(NO_SYSTEM, add_bos=True))
  (segments,) = encoder.segments([Example("a", (SYSTEM, USER), "Yes")])
  text = encoder.tokenizer.decode(segments.prompt)
  assert text == f"<s>[INST] {SYSTEM['content']}\n\n{USER['content']} [/INST]"
  assert encoder.tokenizer.decode(segments.completions[0]) == " Yes</s>"


def test_template_that_rewrites_the_prompt_is_refused_with_the_row():
  template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
  with pytest.raises(UserError, match="row r7: .*does not start with the prompt"):
    chat.Encoder(make_tokenizer(template)).segments([Example("r7", (USER,), "Yes")])


def test_messages_without_a_template_are_refused():
  with pytest.raises(UserError, match="no chat template"):
    chat.Encoder(make_tokenizer(template=None)).segments([Example("a", (USER,), "Yes")])


@pytest.mark.parametrize(("prompt", "answer"), [("", "a"), ("a", "")])
def test_empty_text_is_refused_with_the_row(prompt, answer):
  with pytest.raises(UserError, match="row e1: .*empty"):
    chat.Encoder(make_tokenizer()).segments([Example("e1", prompt, answer)])


@pytest.mark.parametrize("messages", [(USER, {**NO, "content": ""}, USER, YES), (USER,)])
def test_a_conversation_that_lacks_an_answer_is_refused_with_the_row(messages):
  with pytest.raises(UserError, match="row e1: an answer is empty"):
    chat.Encoder(make_tokenizer()).segments([Conversation("e1", messages)])


def test_a_tokenizer_may_know_more_than_the_model_until_a_text_needs_it():
  """As that of Gemma 3 1B, whose last token stands for an image."""
  tokenizer = make_tokenizer()
  tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
  encoder = chat.Encoder(tokenizer, len(tokenizer) - 1)
  assert encoder.segments([Example("a", (USER,), "Yes")])
  with pytest.raises(UserError, match=r"a text has the token '<image>' \(id 260\), and the model has 260 tokens"):
    encoder.segments([Example("a", "an <image>", "Yes")])


def test_continuation_gets_no_space_of_its_own_from_a_sentencepiece_tokenizer():
  tokenizer = make_sentencepiece()
  encoder = chat.Encoder(tokenizer)
  bare, spaced = encoder.completions(["abc", " abc"])
  assert tokenizer.convert_ids_to_tokens(list(bare)) == ["a", "b", "c"]
  assert tokenizer.convert_ids_to_tokens(list(spaced)) == ["\u2581", "a", "b", "c"]
  (prompt,) = encoder.prompts(["fed"])
  assert list(prompt + spaced) == tokenizer("fed abc").input_ids


def test_fingerprint_changes_with_the_template_alone():
  same, other = chat.Encoder(make_tokenizer()), chat.Encoder(make_tokenizer(NO_SYSTEM))
  assert chat.Encoder(make_tokenizer()).fingerprint == same.fingerprint != other.fingerprint


GROUP = Segments("g", (9, 1, 2, 3, 4, 5), ((11, 12), (13, 14, 15)))


@pytest.mark.parametrize(
  ("limits", "prompt", "what"),
  [
    ({}, (9, 1, 2, 3, 4, 5), ""),
    ({"max_length": 9}, (9, 1, 2, 3, 4, 5), ""),
    ({"max_length": 8}, (9, 2, 3, 4, 5), "cut"),
    ({"max_length": 8, "bos": None}, (1, 2, 3, 4, 5), "cut"),
    ({"max_prompt": 3}, (9, 4, 5), "cut"),
    ({"row_length": 9}, (9, 1, 2, 3, 4, 5), ""),
    ({"row_length": 8}, (9, 2, 3, 4, 5), "cut"),
    ({"max_length": 8, "row_length": 6, "max_prompt": 4}, (9, 4, 5), "cut"),
    ({"max_length": 5}, (9, 5), "cut"),
    ({"max_length": 4}, None, "dropped"),
    ({"max_completion": 3}, (9, 1, 2, 3, 4, 5), ""),
    ({"max_completion": 2}, None, "dropped"),
    ({"max_length": 8, "too_long": "drop"}, None, "dropped"),
  ],
)
def test_cut_shortens_prompts_behind_bos_and_never_answers(limits, prompt, what):
  kept, happened = chat.cut(GROUP, chat.Limits(**{"bos": 9, **limits}))
  assert happened == what
  if prompt is None:
    assert kept is None
  else:
    assert kept == dataclasses.replace(GROUP, prompt=prompt)


@pytest.mark.parametrize(
  ("limits", "prompt", "copies"),
  [
    ({"row_length": 15}, (9, 1, 2, 3, 4, 5), 2),
    ({"row_length": 14}, (9, 2, 3, 4, 5), 1),
    ({"row_length": 14, "turn": 7}, (9, 1, 2, 3, 4, 5), 1),
    ({"row_length": 13, "max_length": 8, "turn": 7}, (9, 2, 3, 4, 5), 2),
    ({"row_length": 12, "max_length": 8, "turn": 7}, (9, 3, 4, 5), 1),
  ],
)
def test_a_row_has_room_for_a_prompt_on_either_side_of_a_turn(limits, prompt, copies):
  kept, _ = chat.cut(GROUP, chat.Limits(**{"bos": 9, "turn": 8, **limits}))
  assert (kept.prompt, len(kept.sharing)) == (prompt, copies)
  assert row_tokens(kept) <= limits["row_length"]


ANSWERS = ((1.0,) * 2 + (0.0,) * 3 + (1.0,) * 3,)
TALK = Segments("t", (9, 1, 2, 3, 4, 5), ((11, 12, 21, 22, 23, 13, 14, 15),), weights=ANSWERS)


@pytest.mark.parametrize(
  ("limits", "prompt", "what"),
  [
    ({"max_length": 14}, (9, 1, 2, 3, 4, 5), ""),
    ({"max_length": 12}, (9, 3, 4, 5), "cut"),
    ({"row_length": 9}, (9, 5), "cut"),
    ({"max_length": 9}, None, "dropped"),
    ({"max_completion": 3}, (9, 1, 2, 3, 4, 5), ""),
    ({"max_completion": 2}, None, "dropped"),
    ({"max_length": 12, "too_long": "drop"}, None, "dropped"),
  ],
)
def test_of_a_conversation_only_what_precedes_the_first_answer_is_cut(limits, prompt, what):
  kept, happened = chat.cut(TALK, chat.Limits(**{"bos": 9, **limits}))
  assert (kept, happened) == (prompt and dataclasses.replace(TALK, prompt=prompt), what)


@pytest.mark.parametrize("limits", [{"max_length": 8}, {"max_completion": 2}, {"row_length": 3}])
def test_too_long_error_names_the_row(limits):
  with pytest.raises(UserError, match="row g: 6 prompt tokens .* 3 answer tokens"):
    chat.cut(GROUP, chat.Limits(too_long="error", **limits))


def test_encode_all_counts_what_it_cut_and_dropped():
  encoder = chat.Encoder(make_tokenizer(add_bos=True))
  items = [Example("short", "ab", "c"), Example("long", "abcdefgh", "c"), Example("answer", "ab", "cdefgh")]
  kept, report = chat.encode_all(items, encoder, chat.Limits(max_length=6))
  assert [(segments.id, len(segments.prompt)) for segments in kept] == [("short", 3), ("long", 4)]
  assert kept[1].prompt[0] == encoder.bos
  assert (report.total, report.cut, report.dropped) == (3, ("long",), ("answer",))
  assert str(report) == "3 rows: 1 prompts cut, 1 rows dropped as too long"


def test_encode_all_counts_the_turns_of_a_conversation_that_is_learnt_turn_by_turn():
  encoder = chat.Encoder(make_tokenizer("{% for m in messages %}{{ m['content'] }}|{% endfor %}"))
  talk = Conversation("talk", (USER, NO, {"role": "user", "content": "And now?"}, YES))
  prompt = len(encoder.prompts([(USER,)])[0])
  kept, report = chat.encode_all([talk], encoder, chat.Limits(max_length=prompt + 4))
  assert [group.id for group in kept] == ["talk/turn-1", "talk/turn-2"]
  assert (report.total, report.cut, report.dropped) == (2, ("talk/turn-2",), ())
  assert encoder.tokenizer.decode(kept[1].prompt).endswith("No|And now?|")


def test_encode_all_refuses_to_drop_everything():
  encoder = chat.Encoder(make_tokenizer())
  with pytest.raises(UserError, match="all 1 rows are too long"):
    chat.encode_all([Example("a", "abc", "defghi")], encoder, chat.Limits(max_length=6))


@pytest.fixture(scope="module")
def embedded():
  return load_config_and_tokenizer("embedded:smollm2-135m").tokenizer


def test_embedded_model_reads_segments_as_it_reads_the_whole_chat(embedded):
  encoder = chat.Encoder(embedded)
  turns = (
    SYSTEM,
    USER,
    {"role": "assistant", "content": "No."},
    {"role": "user", "content": "BP 152/96 mmHg\n\nNa⁺ 128?"},
  )
  prompts = [(USER,), (SYSTEM, USER), turns]
  answers = ["emergency", "physician, urgent", "3.5 mg/kg q8h\n- then 50 %", "Naïve β-blocker → stop."]
  for prompt, answer in itertools.product(prompts, answers):
    (segments,) = encoder.segments([Example("a", prompt, answer)])
    full = embedded.apply_chat_template([*prompt, {"role": "assistant", "content": answer}], tokenize=False)
    together = tuple(embedded(full.rstrip(), add_special_tokens=False).input_ids)
    assert segments.prompt + segments.completions[0] == together
    assert (
      segments.completions[0][-1] == embedded.eos_token_id and embedded.eos_token_id not in segments.completions[0][:-1]
    )
    assert list(segments.prompt) == embedded.apply_chat_template(list(prompt), add_generation_prompt=True).input_ids


def test_embedded_model_pads_with_what_ends_an_answer_and_still_learns_it(embedded):
  (segments,) = chat.Encoder(embedded).segments([Example("a", "Urgency:", " high")])
  assert embedded.pad_token_id == embedded.eos_token_id == segments.completions[0][-1]
