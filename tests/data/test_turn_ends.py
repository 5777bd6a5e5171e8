"""An answer ends with one end of a turn, whatever the answer looks like."""

import families
import pytest
from test_chat import make_tokenizer
from test_templates import ask, check, say

from medjax.data.chat import Encoder
from medjax.data.examples import Example

FAMILIES = pytest.mark.parametrize("family", families.FAMILIES.values(), ids=families.FAMILIES)


def learnt(tokenizer, answer):
  """The ids of an answer behind a short question."""
  (group,) = Encoder(tokenizer).segments([Example("a", (ask("0"),), answer)])
  return list(group.completions[0])


@FAMILIES
@pytest.mark.parametrize("answer", ["<", "<|", "|>", ">", "end", "s"])
def test_an_answer_that_is_a_part_of_a_special_token_has_one_end(family, answer):
  check(family, (ask("0"), say(answer)))


@FAMILIES
def test_an_answer_that_says_the_end_of_a_turn_has_the_template_s_own_behind_it(family):
  ids, end = learnt(family.tokenizer, f"Write {family.end}"), family.tokenizer.convert_tokens_to_ids(family.end)
  assert ids.count(end) == 2 and ids[-1] == end


@pytest.mark.parametrize("answer", ["No", "No<|end|>", "No</s>"])
def test_of_a_template_that_ends_no_turn_eos_is_the_end_of_every_answer(answer):
  ask_back = "{% if add_generation_prompt %}assistant: {% endif %}"
  tokenizer = make_tokenizer("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}" + ask_back)
  assert tokenizer.decode(learnt(tokenizer, answer)) == f"{answer}\n</s>"


def test_an_end_that_depends_on_the_answer_is_learnt_as_the_template_writes_it():
  end = "{% if not add_generation_prompt %}{{ messages[-1]['content'][:1] + '<|end|></s>' }}{% endif %}"
  tokenizer = make_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}" + end)
  assert tokenizer.decode(learnt(tokenizer, "No")) == "NoN<|end|></s>"
