"""The cache of reference log-probabilities: used again for the same work, never for another."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import medjax
from medjax.data.examples import Segments
from medjax.training import reference

PARAMS = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(4)}
GROUPS = [Segments("p", (1, 2), ((3,), (4, 5))), Segments("q", (1,), ((6,), (7,)))]
DESCRIBED = {"model": {"width": 8}, "dtype": "float32", "attention": "xla"}


def key(params=PARAMS, groups=GROUPS, row_length=16, **described):
  return reference.cache_key(params, groups, row_length, DESCRIBED | described)


@pytest.mark.parametrize(
  "changed",
  [
    {"params": {**PARAMS, "b": PARAMS["b"].at[3].set(1.0000001)}},
    {"params": {**PARAMS, "a": PARAMS["a"][:, ::-1]}},
    {"params": {**PARAMS, "a": PARAMS["a"][::-1]}},
    {"groups": GROUPS[::-1]},
    {"groups": [GROUPS[0], Segments("q", (2,), ((6,), (7,)))]},
    {"groups": [GROUPS[0], Segments("q", (1,), ((6,), (8,)))]},
    {"row_length": 32},
    {"dtype": "bfloat16"},
    {"attention": "pallas"},
  ],
)
def test_the_key_changes_with_all_that_the_numbers_depend_on(changed):
  assert key(**changed) != key() == key(params=dict(PARAMS))


def test_the_key_changes_with_the_code_and_with_jax(monkeypatch):
  before = key()
  monkeypatch.setattr(reference, "_source", lambda: "other")
  assert key() != before
  monkeypatch.undo()
  monkeypatch.setattr(reference.jax, "__version__", "0.0.1")
  assert key() != before


@pytest.mark.parametrize("name", ["XLA_FLAGS", "LIBTPU_INIT_ARGS"])
def test_the_key_changes_with_the_flags_of_the_compiler(monkeypatch, name):
  before = key()
  monkeypatch.setenv(name, f"{os.environ.get(name, '')} --xla_allow_excess_precision=false")
  assert key() != before


def test_the_key_changes_with_the_device_and_the_precision_of_products(monkeypatch):
  before = key()
  with jax.default_matmul_precision("highest"):
    assert key() != before

  class Other:
    device_kind = "TPU v5 lite"

  monkeypatch.setattr(reference.jax, "devices", lambda: [Other()])
  assert key() != before


@pytest.mark.parametrize("path", ["data/packing.py", "arrays.py", "models/attention.py", "objectives/scoring.py"])
def test_the_key_changes_with_each_file_that_makes_the_numbers(monkeypatch, path):
  read_text, changed = pathlib.Path.read_text, pathlib.Path(medjax.__file__).parent / path
  monkeypatch.setattr(reference, "_source", reference._source.__wrapped__)
  before = key()
  monkeypatch.setattr(
    pathlib.Path, "read_text", lambda self, **how: read_text(self, **how) + ("\n" if self == changed else "")
  )
  assert key() != before


def test_names_of_rows_do_not_count():
  assert key(groups=[Segments("other", group.prompt, group.completions) for group in GROUPS]) == key()


@pytest.fixture
def scored(tmp_path, monkeypatch):
  """Counts how often log-probabilities are computed; they are 1, 2 and 3, 4."""
  calls = []

  def score(graph, params, groups, row_length, rows, sharding, advance):
    calls.append(len(groups))
    advance(len(groups))
    return [np.array([1, 2], np.float32), np.array([3, 4], np.float32)]

  monkeypatch.setattr(reference, "score", score)
  monkeypatch.setenv("MEDJAX_CACHE", str(tmp_path))
  return calls


def logps(told=None, groups=GROUPS, **described):
  advance = (lambda groups: None) if told is None else told.append
  return reference.reference_logps(None, PARAMS, groups, 16, 2, None, DESCRIBED | described, advance)


def test_what_was_computed_once_is_read_again(scored, tmp_path):
  told = []
  for _ in range(2):
    found = logps(told)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, 2], [3, 4]])
  assert scored == [2] and told == [2, 2]
  assert [path.parent for path in tmp_path.rglob("*.np*") if path.is_file()][0] == tmp_path / "reference"
  logps(dtype="bfloat16")
  assert scored == [2, 2]


def test_answers_with_weights_are_refused(scored):
  with pytest.raises(ValueError, match="have no weights"):
    logps(groups=[Segments("p", (1,), ((2,), (3,)), weights=((1.0,), (2.0,)))])
