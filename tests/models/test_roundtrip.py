"""Models in and out again: transformers computes the same with what is written, tensors are the bits that came in."""

import json
import pathlib

import gguf_files
import jax
import ml_dtypes
import numpy as np
import pytest
import reference_models as reference
import tiny
import torch
import transformers
from safetensors.numpy import load_file, save_file

import medjax
from medjax.models.families import FAMILIES, PRESETS, config_from_hf, config_to_hf
from medjax.models.pretrained import load_config_and_tokenizer
from medjax.training import export as export_module
from medjax.training.export import export

TOKENS, MASK = reference.batch("right")


def tensors_of(path: pathlib.Path) -> dict[str, np.ndarray]:
  return {name: x for file in sorted(path.glob("*.safetensors")) for name, x in load_file(file).items()}


def as_stored(path: pathlib.Path, dtype) -> None:
  """Rewrites a directory's weights in another dtype."""
  for file in path.glob("*.safetensors"):
    save_file({name: x.astype(dtype) for name, x in load_file(file).items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("case", list(reference.CASES))
def test_transformers_loads_what_it_wrote(case, tmp_path, monkeypatch):
  """In shards, with equal tensors, equal logits, and a config that describes the same decoder."""
  model = reference.torch_model(case)
  model.save_pretrained(tmp_path / "in")
  as_stored(tmp_path / "in", ml_dtypes.bfloat16)
  monkeypatch.setattr(export_module, "SHARD_BYTES", 20_000)
  export(str(tmp_path / "in"), tmp_path / "out")
  came, went = tensors_of(tmp_path / "in"), tensors_of(tmp_path / "out")
  assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
  assert came.keys() == went.keys()
  for name, values in came.items():
    assert values.dtype == went[name].dtype and values.tobytes() == went[name].tobytes(), name
  logits = []
  for path in ("in", "out"):
    settings = {"attn_implementation": "eager", "dtype": torch.float32}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / path, **settings)
    with torch.no_grad():
      logits.append(reference.torch_logits(loaded.eval(), TOKENS, MASK).numpy()[MASK == 1])
  np.testing.assert_array_equal(*logits)
  assert (
    load_config_and_tokenizer(str(tmp_path / "out")).config == load_config_and_tokenizer(str(tmp_path / "in")).config
  )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_other_stored_dtypes_come_back_too(dtype, tmp_path):
  tiny.write_model(tmp_path / "in")
  as_stored(tmp_path / "in", dtype)
  export(str(tmp_path / "in"), tmp_path / "out")
  came, went = tensors_of(tmp_path / "in"), tensors_of(tmp_path / "out")
  assert all(came[name].tobytes() == went[name].tobytes() for name in came)
  assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == np.dtype(dtype).name
  export(str(tmp_path / "in"), tmp_path / "bf16", "bfloat16")
  assert {x.dtype.name for x in tensors_of(tmp_path / "bf16").values()} == {"bfloat16"}


@pytest.mark.parametrize("name", list(gguf_files.CONFIGS))
def test_a_gguf_file_becomes_a_directory(name, tmp_path):
  """Its config.json is made here: transformers computes with it what medjax computes with the file."""
  path = gguf_files.write_gguf(tmp_path / "model.gguf", gguf_files.CONFIGS[name])
  export(str(path), tmp_path / "out")
  with jax.default_matmul_precision("highest"):
    wanted = medjax.load(str(path)).logits(TOKENS, MASK)
  model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
  with torch.no_grad():
    got = reference.torch_logits(model, TOKENS, MASK).numpy()
  scale = np.abs(wanted).max()
  np.testing.assert_allclose(got[MASK == 1], np.asarray(wanted)[MASK == 1], rtol=0, atol=1e-5 * max(scale, 10))
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  assert tokenizer("12 mg")["input_ids"] == load_config_and_tokenizer(str(path)).tokenizer("12 mg")["input_ids"]


def test_gguf_weights_keep_a_dtype_that_transformers_has(tmp_path):
  for kind, dtype in (("F16", "float16"), ("BF16", "bfloat16"), ("Q8_0", "float32")):
    path = gguf_files.write_gguf(tmp_path / f"{kind}.gguf", kind=kind)
    export(str(path), tmp_path / kind)
    assert {x.dtype.name for x in tensors_of(tmp_path / kind).values()} == {dtype}


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_survive_config_json(name):
  """Written, read by transformers' own config class, and read back, also without what only version 5 writes."""
  config = PRESETS[name]
  written = json.loads(json.dumps(config_to_hf(config)))
  assert config_from_hf(written, name) == config
  assert config.family in FAMILIES
  older = {key: value for key, value in written.items() if key not in ("rope_parameters", "layer_types")}
  assert config_from_hf(older, name).rope_theta == config.rope_theta
  assert config_from_hf(older, name).rope_scaling == config.rope_scaling


def pictures_and_text(path: pathlib.Path) -> transformers.PreTrainedModel:
  """A tiny Gemma 3 with a vision tower, as MedGemma 4B has one."""
  text = {key: x for key, x in reference.CASES["gemma3"].items() if key not in ("architectures", "model_type")}
  vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
  config = transformers.Gemma3Config(
    text_config=text,
    vision_config=vision | {"image_size": 28, "patch_size": 14},
    mm_tokens_per_image=4,
    image_token_index=60,
    boi_token_index=58,
    eoi_token_index=59,
  )
  torch.manual_seed(0)
  model = transformers.Gemma3ForConditionalGeneration(config).float().eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.copy_(0.3 * torch.randn(parameter.shape))
  model.save_pretrained(path)
  return model


def older_names(path: pathlib.Path) -> None:
  """Renames tensors to what checkpoints on the hub call them."""
  file = path / "model.safetensors"
  tensors = {}
  for name, x in load_file(file).items():
    name = name.replace("model.language_model.", "language_model.model.").removeprefix("model.")
    tensors[name] = x
  save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("rename", [None, older_names])
def test_the_text_part_of_a_model_of_pictures(rename, tmp_path):
  model = pictures_and_text(tmp_path / "in")
  if rename:
    rename(tmp_path / "in")
  tokens = np.where(TOKENS >= 58, 7, TOKENS)  # no image tokens
  with torch.no_grad():
    wanted = reference.torch_logits(model, tokens, MASK).numpy()
  with jax.default_matmul_precision("highest"):
    got = medjax.load(str(tmp_path / "in")).logits(tokens, MASK)
  np.testing.assert_allclose(np.asarray(got)[MASK == 1], wanted[MASK == 1], rtol=0, atol=1e-4)
  export(str(tmp_path / "in"), tmp_path / "out")
  text = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
  assert type(text).__name__ == "Gemma3ForCausalLM"
  with torch.no_grad():
    got = reference.torch_logits(text, tokens, MASK).numpy()
  np.testing.assert_allclose(got[MASK == 1], wanted[MASK == 1], rtol=0, atol=1e-4)
