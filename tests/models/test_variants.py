"""Variants of config.json: each has the logits that transformers computes, or is refused with a line that says why."""

import json
import pathlib
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_models as reference
import torch
import transformers
from safetensors.numpy import save_file

from medjax.errors import UserError
from medjax.models.decoder import bind, build, head_matrix
from medjax.models.families import FAMILIES, config_from_hf, config_to_hf
from medjax.models.layers import soft_capped
from medjax.models.pretrained import load_pretrained
from medjax.models.views import Layout

VARIANTS = tomllib.loads(pathlib.Path(__file__).with_name("variants.toml").read_text())
CASES = [pytest.param(family, case, id=f"{family}-{case['name']}") for family in VARIANTS for case in VARIANTS[family]]
EQUAL = [case for case in CASES if "refused" not in case.values[1]]
REFUSED = [case for case in CASES if "refused" in case.values[1]]


def values_of(family, case):
  """The config.json of a case; a key that is to be null is "null" in the table."""
  keys = {key: None if value == "null" else value for key, value in case.get("keys", {}).items()}
  heads = {"head_dim": 8} if family.startswith(("gemma", "qwen3")) else {}
  named = {"architectures": [FAMILIES[family].architecture], "model_type": family}
  return {**named, **reference.SIZES, "num_hidden_layers": 2, **heads, **keys}


def torch_model(family, case, values):
  """The model of transformers with weights of its own, eager, as `sdpa` leaves out soft caps."""
  hf = transformers.CONFIG_MAPPING[family](**{key: value for key, value in values.items() if key != "model_type"})
  model = transformers.AutoModelForCausalLM.from_config(hf, attn_implementation="eager").float().eval()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.copy_(torch.from_numpy(reference.weight(f"{family} {case['name']}", name, tuple(parameter.shape))))
  return model


@pytest.mark.parametrize(("family", "case"), EQUAL)
def test_a_variant_computes_what_transformers_does(family, case, tmp_path):
  values = values_of(family, case)
  model = torch_model(family, case, values)
  (tmp_path / "config.json").write_text(json.dumps(values))
  save_file({name: value.detach().numpy() for name, value in model.named_parameters()}, tmp_path / "model.safetensors")
  loaded = load_pretrained(str(tmp_path))
  tokens, mask = reference.batch("right", (40, 7))
  expected = reference.torch_logits(model, tokens, mask).detach().numpy()
  with jax.disable_jit():  # its operations are compiled once for all variants
    hidden_BTD = bind(build(loaded.config, "float32", remat="none"), loaded.params)(
      jnp.asarray(tokens), Layout.plain(jnp.asarray(mask))
    )
  logits = soft_capped(hidden_BTD @ head_matrix(loaded.params).T, loaded.config.logit_softcap)
  np.testing.assert_allclose(np.asarray(logits)[mask == 1], expected[mask == 1], rtol=0, atol=1e-4)
  assert config_from_hf(config_to_hf(loaded.config), "written") == loaded.config


@pytest.mark.parametrize(("family", "case"), REFUSED)
def test_a_variant_that_medjax_lacks_is_refused_in_one_line(family, case):
  with pytest.raises(UserError, match=case["refused"]) as refusal:
    config_from_hf(values_of(family, case), "config.json")
  assert str(refusal.value).startswith("config.json: ") and "\n" not in str(refusal.value)


def test_every_family_has_variants():
  assert VARIANTS.keys() == FAMILIES.keys()
