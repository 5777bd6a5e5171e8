"""Tokenizers come from the files alone: no code of a directory runs, and a GGUF file's ids are what they say."""

import json

import pytest
import tiny
import transformers

from medjax.errors import UserError
from medjax.models.tokenizers import tokenizer_from_directory, tokenizer_from_gguf


def test_code_beside_a_tokenizer_does_not_run_and_nothing_is_fetched(tmp_path, monkeypatch):
  tiny.tokenizer().save_pretrained(tmp_path)
  (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
  path = tmp_path / "tokenizer_config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}))
  asked, load = [], transformers.AutoTokenizer.from_pretrained

  def loading(source, **how):
    asked.append(how)
    return load(source, **how | {"trust_remote_code": False})

  monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", loading)
  try:
    tokenizer_from_directory(tmp_path)
  except UserError:
    pass  # it needs code of its own
  assert all(how["trust_remote_code"] is False and how["local_files_only"] is True for how in asked)
  assert not (tmp_path / "ran").exists()


def test_a_directory_without_a_tokenizer_has_none_and_a_broken_one_is_named(tmp_path):
  assert tokenizer_from_directory(tmp_path) is None
  (tmp_path / "tokenizer.json").write_text("{")
  with pytest.raises(UserError, match=f"{tmp_path}: its tokenizer cannot be read"):
    tokenizer_from_directory(tmp_path)


BYTES = {
  "tokens": ["a", "b", "c", "ab", "<end>", "<bos>", "{x}", "Ġ"],
  "merges": ["a b"],
  "model": "gpt2",
  "token_type": [1, 1, 1, 1, 3, 3, 4, 1],
  "eos_token_id": 4,
  "bos_token_id": 5,
}
PIECES = {
  "tokens": ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁a"],
  "scores": [0.0] * 259 + [-9.0, -9.0, -9.0, -1.0, -2.0],
  "token_type": [2, 3, 3] + [6] * 256 + [1] * 5,
  "model": "llama",
  "eos_token_id": 2,
  "bos_token_id": 1,
}


def read(base, **changes):
  values = {f"tokenizer.ggml.{key}": value for key, value in (base | changes).items() if value is not None}
  return tokenizer_from_gguf(values | {"tokenizer.chat_template": "{{ messages }}"}, "model.gguf")


def test_bytes_are_merged_and_control_tokens_are_special():
  tokenizer = read(BYTES)
  assert tokenizer("abc<end>{x}", add_special_tokens=False).input_ids == [3, 2, 4, 6]
  assert tokenizer.decode([3, 4, 6], skip_special_tokens=True) == "ab{x}"
  assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.chat_template) == ("<end>", "<bos>", "{{ messages }}")
  assert tokenizer.pad_token == "<end>", "EOS, where the file names none"
  assert read(BYTES, padding_token_id=6).pad_token == "{x}"


def test_pieces_are_merged_by_score_behind_a_space_with_bytes_for_the_rest():
  tokenizer = read(PIECES)
  assert tokenizer("ab", add_special_tokens=False).input_ids == [259, 262]
  assert tokenizer("é", add_special_tokens=False).input_ids == [259, 3 + 0xC3, 3 + 0xA9]
  assert tokenizer.decode([259, 262, 3 + 0xC3, 3 + 0xA9]) == "abé"
  assert read(PIECES, add_space_prefix=False)("ab", add_special_tokens=False).input_ids == [262]


@pytest.mark.parametrize(
  ("base", "changes", "reason"),
  [
    (BYTES, {"tokens": None}, "tokens is missing"),
    (BYTES, {"tokens": []}, "tokens is missing"),
    (BYTES, {"model": "wordpiece"}, "model = 'wordpiece' is not supported"),
    (BYTES, {"merges": None}, "merges is missing"),
    (BYTES, {"pre": "unheard"}, "pre = 'unheard' is not supported"),
    (BYTES, {"token_type": [1]}, "1 entries for 8 tokens"),
    (BYTES, {"eos_token_id": 8}, "eos_token_id = 8 is not among its 8 tokens"),
    (BYTES, {"bos_token_id": -1}, "bos_token_id = -1 is not among"),
    (BYTES, {"merges": ["a z"]}, "do not fit"),
    (PIECES, {"scores": [0.0]}, "scores does not fit"),
  ],
)
def test_metadata_that_make_no_sense_are_refused_with_the_file(base, changes, reason):
  with pytest.raises(UserError, match=f"model.gguf: .*{reason}"):
    read(base, **changes)
