"""Adapters of PEFT give the same logits here, and ours there."""

import json
import pathlib
import re

import jax
import numpy as np
import peft as reference_peft
import pytest
import reference_models as reference
import torch
import transformers
from safetensors.numpy import load_file, save_file

import medjax
from medjax.errors import UserError
from medjax.models import peft
from medjax.models.decoder import init_params
from medjax.models.lora import LoraConfig, join, split
from medjax.models.pretrained import load_config_and_tokenizer, load_pretrained

# Of each way in which names and tensors are laid out, one: plain, biased, with norms on q and k, fused.
CASES = ("llama_grouped_tied", "qwen2", "gemma3", "phi4_mini")
TOKENS, MASK = reference.batch("right")


@pytest.fixture(autouse=True)
def exact_products():
  with jax.default_matmul_precision("highest"):
    yield


@pytest.fixture(scope="module", params=CASES)
def base(request, tmp_path_factory):
  path = tmp_path_factory.mktemp(request.param)
  reference.torch_model(request.param).save_pretrained(path)
  return path


def theirs(base: pathlib.Path, adapter: pathlib.Path | None = None) -> np.ndarray:
  model = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
  if adapter is not None:
    model = reference_peft.PeftModel.from_pretrained(model, adapter)
  with torch.no_grad():
    return reference.torch_logits(model.eval(), TOKENS, MASK).numpy()


def assert_logits(got, wanted):
  np.testing.assert_allclose(np.asarray(got)[MASK == 1], wanted[MASK == 1], rtol=0, atol=1e-4)


def make_adapter(base: pathlib.Path, path: pathlib.Path, **settings) -> pathlib.Path:
  """An adapter as PEFT saves it, with B drawn."""
  model = transformers.AutoModelForCausalLM.from_pretrained(base)
  config = reference_peft.LoraConfig(
    **{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
  )
  adapted = reference_peft.get_peft_model(model, config)
  draw = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, parameter in adapted.named_parameters():
      if "lora_B" in name:
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draw))
  adapted.save_pretrained(path)
  return path


@pytest.mark.parametrize(
  "settings",
  [
    {"use_rslora": True, "target_modules": r".*\.(o_proj|down_proj)"},
    {"target_modules": ["o_proj", "down_proj"], "rank_pattern": {"o_proj": 2}, "alpha_pattern": {"layers.1.mlp.*": 3}},
    {"target_modules": ["o_proj", "down_proj"], "alpha_pattern": {r"^model\.(.*\.)?layers\.0\..*o_proj": 40}},
  ],
)
def test_an_adapter_of_peft_is_added_to_its_base(base, tmp_path, settings):
  adapter = make_adapter(base, tmp_path / "adapter", **settings)
  wanted = theirs(base, adapter)
  assert np.abs(wanted - theirs(base)).max() > 0.3, "the adapter acts"
  assert_logits(medjax.load(str(adapter)).logits(TOKENS, MASK), wanted)


def trained_params(lora: LoraConfig, config):
  """Adapters with drawn B, as numpy arrays."""
  draw = np.random.default_rng(0)
  fresh = split(init_params(config, 0, lora))[1]
  return jax.tree.map(lambda x: (0.3 * draw.standard_normal(x.shape)).astype(np.float32), fresh)


@pytest.mark.parametrize(
  "lora",
  [LoraConfig(4, 8.0), LoraConfig(3, 5.0, "[qv]_proj|gate_proj|down_proj", rslora=True)],
)
def test_our_adapters_load_in_peft(base, tmp_path, lora):
  """Also where several kernels are one tensor (Phi-3), some of them without an adapter."""
  loaded = load_pretrained(str(base))
  params = trained_params(lora, loaded.config)
  tensors, config = peft.to_peft(params, lora, loaded.config, str(base))
  (tmp_path / "adapter").mkdir()
  save_file(tensors, tmp_path / "adapter" / peft.TENSORS)
  (tmp_path / "adapter" / peft.CONFIG).write_text(json.dumps(config))
  wanted = theirs(base, tmp_path / "adapter")
  assert np.abs(wanted - theirs(base)).max() > 0.3, "the adapter acts"
  model = medjax.Model(loaded.config, None, join(loaded.params, params), "float32", (), lora)
  assert_logits(model.logits(TOKENS, MASK), wanted)
  assert_logits(medjax.load(str(tmp_path / "adapter")).logits(TOKENS, MASK), wanted)


def test_taken_over_for_training(base, tmp_path):
  adapter = make_adapter(base, tmp_path / "adapter", target_modules=["o_proj", "down_proj"])
  loaded = load_pretrained(str(base))
  lora = LoraConfig(4, 8.0, "o_proj|down_proj")
  params = peft.Adapter(adapter, loaded.config).params(lora, loaded.config.num_layers)
  model = medjax.Model(loaded.config, None, join(loaded.params, params), "float32", (), lora)
  assert_logits(model.logits(TOKENS, MASK), theirs(base, adapter))
  for wrong, message in (
    (LoraConfig(8, 8.0, "o_proj|down_proj"), "has rank 4 and scale 2; fit lora.rank"),
    (LoraConfig(4, 4.0, "o_proj|down_proj"), "has rank 4 and scale 2; fit lora.rank, lora.alpha"),
    (LoraConfig(4, 8.0, "o_proj"), "mlp.down_proj has an adapter; fit lora.targets"),
    (LoraConfig(4, 8.0), "has no adapter; fit lora.targets"),
  ):
    with pytest.raises(UserError, match=message):
      peft.Adapter(adapter, loaded.config).params(wrong, loaded.config.num_layers)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  """(base, adapter) of a Llama."""
  home = tmp_path_factory.mktemp("peft")
  reference.torch_model("llama").save_pretrained(home / "base")
  return home / "base", make_adapter(home / "base", home / "adapter", target_modules=["q_proj"])


def edited(adapter: pathlib.Path, path: pathlib.Path, **changes) -> pathlib.Path:
  path.mkdir()
  values = json.loads((adapter / peft.CONFIG).read_text()) | changes
  (path / peft.CONFIG).write_text(json.dumps({key: x for key, x in values.items() if x != "absent"}))
  (path / peft.TENSORS).write_bytes((adapter / peft.TENSORS).read_bytes())
  return path


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"use_dora": True}, "use_dora = True is not supported; medjax reads plain LoRA"),
    ({"bias": "all"}, "bias = 'all' is not supported"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save = "),
    ({"peft_type": "IA3"}, "peft_type = 'IA3' is not supported"),
    ({"base_model_name_or_path": "absent"}, "base_model_name_or_path is missing"),
    ({"base_model_name_or_path": "/nowhere"}, "/nowhere: no such file or directory"),
    ({"lora_alpha": "x"}, "lora_alpha = 'x'; a number is needed"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' is not supported"),
  ],
)
def test_settings_that_compute_something_else_are_refused(good, tmp_path, changes, message):
  with pytest.raises(UserError, match=re.escape(message)) as error:
    medjax.load(str(edited(good[1], tmp_path / "adapter", **changes)))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: t.update({"../x": np.ones(1)}), "tensor ../x belongs to no linear layer"),
    (lambda t: t.update({"base_model.model.lm_head.lora_A.weight": np.ones((4, 32))}), "belongs to no linear layer"),
    (lambda t: t.pop(next(n for n in t if "lora_B" in n)), r"lora_B []"),
    (lambda t: t.update({n: x[:, :9].copy() for n, x in t.items() if "lora_A" in n}), "but its weight is [32, 32]"),
    (lambda t: t.clear(), "holds no adapter"),
  ],
)
def test_tensors_that_do_not_fit_are_refused(good, tmp_path, change, message):
  path = edited(good[1], tmp_path / "adapter")
  tensors = load_file(path / peft.TENSORS)
  change(tensors)
  save_file(tensors, path / peft.TENSORS)
  with pytest.raises(UserError, match=re.escape(message)):
    medjax.load(str(path))


def test_files_that_are_missing_or_damaged(good, tmp_path):
  path = edited(good[1], tmp_path / "adapter")
  data = (path / peft.TENSORS).read_bytes()
  (path / peft.TENSORS).write_bytes(data[:-3])
  with pytest.raises(UserError, match="truncated or damaged"):
    medjax.load(str(path))
  (path / peft.TENSORS).unlink()
  with pytest.raises(UserError, match="adapter_model.safetensors: missing"):
    medjax.load(str(path))
  (path / peft.CONFIG).write_text("[]")
  with pytest.raises(UserError, match="holds a list, not a JSON object"):
    load_config_and_tokenizer(str(path))
