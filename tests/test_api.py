"""The notebook interface: logits, generation and log-probabilities, against transformers on the same directory."""

import json

import jax
import numpy as np
import pytest
import tiny
import torch
import transformers

import medjax
from medjax import config as schema
from medjax.errors import UserError
from medjax.training.loop import train

TEXTS = ["sodium", "patient with chest pain, troponin rising", "K"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tiny.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(home):
  return medjax.load(str(home))


@pytest.fixture(scope="module")
def theirs(home):
  return transformers.LlamaForCausalLM.from_pretrained(home, dtype=torch.float32).eval()


@pytest.fixture(autouse=True)
def exact_products():
  with jax.default_matmul_precision("highest"):
    yield


def their_answer(theirs, ids, count):
  """Greedy ids of transformers, up to and without EOS."""
  out = theirs.generate(
    torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=count, do_sample=False, pad_token_id=2
  )
  answer = out[0, len(ids) :].tolist()
  return answer[: answer.index(2)] if 2 in answer else answer


def their_logp(theirs, prompt, completion):
  with torch.no_grad():
    logp = torch.log_softmax(theirs(torch.tensor([[*prompt, *completion]])).logits[0], -1)
  return sum(float(logp[len(prompt) + place - 1, token]) for place, token in enumerate(completion))


def test_texts_in_texts_out(model, theirs):
  tokenizer = tiny.tokenizer()
  wanted = [tokenizer.decode(their_answer(theirs, tokenizer(text)["input_ids"], 12)) for text in TEXTS]
  assert len(set(wanted)) == 3
  assert model.generate(TEXTS, 12) == wanted


def test_ids_in_ids_out(model, theirs):
  ids = [tiny.tokenizer()(text)["input_ids"] for text in TEXTS]
  wanted = [their_answer(theirs, each, 12) for each in ids]
  assert model.generate(ids, 12) == wanted
  assert model.generate([np.array(each) for each in ids], 12) == wanted
  assert model.generate(np.array([ids[0], ids[0]]), 12) == [wanted[0]] * 2


def test_chat_applies_the_template(model, theirs):
  message = {"role": "user", "content": TEXTS[1]}
  ids = tiny.tokenizer().apply_chat_template([message], add_generation_prompt=True, return_dict=False)
  wanted = tiny.tokenizer().decode(their_answer(theirs, ids, 12), skip_special_tokens=True)
  assert model.generate([TEXTS[1]], 12, chat=True) == model.generate([[message]], 12) == [wanted]
  assert model.generate([TEXTS[1]], 12) != [wanted]


def test_stop_strings_end_what_is_generated(model):
  """Of several tokens each, and none of the first text, which goes on; ids end with the token that completes one."""
  stop, tokenizer = ["8\x0f", "\x00x"], tiny.tokenizer()
  free = model.generate(TEXTS, 40)
  wanted = [text.split(stop[0])[0].split(stop[1])[0] for text in free]
  assert [len(cut) < len(text) for cut, text in zip(wanted, free, strict=True)] == [False, True, True]
  assert model.generate(TEXTS, 40, stop=stop) == wanted
  prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
  all_ids, ids = model.generate(prompts, 40), model.generate(prompts, 40, stop=stop)
  assert [longer[: len(each)] for longer, each in zip(all_ids, ids, strict=True)] == ids and ids[0] == all_ids[0]
  texts = tokenizer.batch_decode(ids[1:], skip_special_tokens=True)
  assert texts == [wanted[1] + stop[0], wanted[2] + stop[1]]


def test_nothing_in_nothing_out(model):
  assert model.generate([], 5) == []
  assert model.logp([], []).shape == (0,)


@pytest.mark.parametrize("side", ["right", "left"])
def test_logits(model, theirs, side):
  draw = np.random.default_rng(0)
  tokens_BT, mask_BT = draw.integers(3, 264, (2, 9)), np.ones((2, 9), np.int32)
  mask_BT[1, slice(6, None) if side == "right" else slice(0, 3)] = 0
  logits_BTV = model.logits(tokens_BT, mask_BT)
  assert logits_BTV.dtype == np.float32 and logits_BTV.shape == (2, 9, 264)
  for row in range(2):
    real = mask_BT[row] == 1
    with torch.no_grad():
      wanted = theirs(torch.from_numpy(tokens_BT[row, real])[None]).logits[0].numpy()
    np.testing.assert_allclose(np.asarray(logits_BTV)[row, real], wanted, atol=1e-4)


def test_logp_equals_transformers(model, theirs):
  tokenizer = tiny.tokenizer()
  answers = [" low", "?", " hyperkalaemia, urgent"]
  prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
  bare = [tokenizer(text)["input_ids"] for text in answers]
  for add_eos in (True, False):
    tail = [2] if add_eos else []
    wanted = [their_logp(theirs, p, [*a, *tail]) for p, a in zip(prompts, bare, strict=True)]
    got = model.logp(TEXTS, answers, add_eos=add_eos)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(model.logp(prompts, bare, add_eos=add_eos), got, rtol=1e-6)


def test_logp_of_messages_ends_the_turn(model, theirs):
  messages = [{"role": "user", "content": "Na 118?"}]
  prompt = tiny.tokenizer().apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
  answer = [*tiny.tokenizer()("low")["input_ids"], 2]
  np.testing.assert_allclose(model.logp([messages], ["low"]), [their_logp(theirs, prompt, answer)], rtol=1e-5)


def test_the_same_eos_is_scored_after_texts_and_ids(tmp_path):
  """Where a model names several ends, it is the tokenizer's that an answer is scored with."""
  path = tiny.write_model(tmp_path)
  config = json.loads((path / "generation_config.json").read_text())
  (path / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [0, 2]}))
  model = medjax.load(str(path))
  assert model.eos == (0, 2)
  ids = [tiny.tokenizer()(text)["input_ids"] for text in ("Na", " low")]
  np.testing.assert_allclose(model.logp(["Na"], [" low"]), model.logp(ids[:1], ids[1:]), rtol=1e-6)


def test_bfloat16_is_close(model, home):
  short = medjax.load(str(home), dtype="bfloat16")
  assert {str(x.dtype) for x in jax.tree.leaves(short.params)} == {"bfloat16"}
  np.testing.assert_allclose(short.logp(TEXTS, [" low"] * 3), model.logp(TEXTS, [" low"] * 3), rtol=0.02)


def test_a_trained_workdir_loads_by_its_path(model, home, tmp_path):
  rows = [{"prompt": text, "completion": " low"} for text in TEXTS] * 4
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  settings = {"model.path": str(home), "data.source": str(tmp_path / "rows.jsonl"), "train.steps": 10}
  settings |= {"optimizer.learning_rate": 0.02, "optimizer.warmup_steps": 0, "train.row_length": 64}
  train(schema.with_overrides(schema.base_config(), settings), tmp_path / "run")
  trained = medjax.load(str(tmp_path / "run"))
  assert (trained.logp(TEXTS, [" low"] * 3) > model.logp(TEXTS, [" low"] * 3) + 5).all()
  assert trained.generate(TEXTS, 8) == [" low"] * 3
  named = tmp_path / "run" / "checkpoints" / "10"
  np.testing.assert_array_equal(medjax.load(str(named)).logp(TEXTS, [" low"] * 3), trained.logp(TEXTS, [" low"] * 3))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda m: m.generate([""], 4), "prompt 0 is empty"),
    (lambda m: m.generate([[], [5, 6]], 4), "prompt 0 is empty"),
    (lambda m: m.generate(["a", []], 4), "prompt 1 is empty"),
    (lambda m: m.generate(["a"], 4, stop=["b", ""]), "stop holds an empty text"),
    (lambda m: m.generate(["a"], 4, stop="b"), "stop is one text; give a list"),
    (lambda m: m.generate("one text", 4), "prompts is one text; give a list"),
    (lambda m: m.generate(["x" * 509], 4), "prompt 0 has 509 tokens"),
    (lambda m: m.logp("one", "two"), "prompts is one text; give a list"),
    (lambda m: m.logp([""], ["a"]), "row 0: the prompt or a completion has no tokens"),
    (lambda m: m.logp(["a"], [""], add_eos=False), "row 0: the prompt or a completion has no tokens"),
    (lambda m: m.logp([[5]], [[]], add_eos=False), "row 0: the prompt or a completion has no tokens"),
    (lambda m: m.logp(["a", "x" * 508], ["b", "cdef"]), "prompt 1 and its completion exceed the context of 512"),
  ],
)
def test_what_cannot_be_read_is_refused(model, call, message):
  with pytest.raises(UserError, match=message):
    call(model)


def test_unknown_dtype_is_refused(home):
  with pytest.raises(UserError, match="dtype = 'float16' is not supported; choose auto or float32 or bfloat16"):
    medjax.load(str(home), dtype="float16")
