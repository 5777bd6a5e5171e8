"""Log-probabilities under the reference model: computed once, kept on disk under a key that says what they are of."""

import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

import medjax
from medjax import files, processes
from medjax.data.examples import Segments
from medjax.models.decoder import Params
from medjax.objectives.scoring import score
from medjax.runtime import cache_directory

_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # in the environment, for the compiler
_DIGEST_BYTES = 32  # of SHA-256, behind the array in its file


@jax.jit
def _checksums(params: Params) -> jax.Array:
  """Two uint32 sums for each parameter over its bits, mixed with their places; equal on every mesh."""

  def sums(x):
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)  # in the flat array, modulo 2^32; x is not reshaped, so it stays sharded
    for axis, size in enumerate(x.shape):
      place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    mixed = (bits ^ (place * jnp.uint32(0x9E3779B1))) * jnp.uint32(0x85EBCA77)
    mixed = mixed ^ (mixed >> 15)
    return jnp.stack([jnp.sum(mixed, dtype=jnp.uint32), jnp.sum(mixed * (2 * place + 1), dtype=jnp.uint32)])

  return jnp.stack([sums(x) for x in jax.tree.leaves(params)])


def weights_fingerprint(params: Params) -> str:
  """Names the values of all parameters."""
  return files.fingerprint(np.asarray(jax.device_get(_checksums(params))).tolist())


@functools.cache
def _source() -> str:
  """Names the code that makes log-probabilities."""
  home = pathlib.Path(medjax.__file__).parent
  paths = [path for room in ("models", "objectives") for path in sorted((home / room).glob("*.py"))]
  paths += [home / "arrays.py", home / "data" / "packing.py"]
  return files.fingerprint([[path.name, path.read_text(encoding="utf-8")] for path in paths])


def cache_key(params: Params, groups: Sequence[Segments], row_length: int, described: Mapping[str, Any]) -> str:
  """Names all that the log-probabilities depend on.

  Args:
    params: weights, by their values.
    groups: token ids, which follow from texts, template, tokenizer and limits.
    row_length: decides which groups are computed beside each other.
    described: model config, compute dtype, kernel of attention and tokenizer.
  """
  ids = [[group.prompt, group.completions] for group in groups]
  return files.fingerprint(
    {
      "weights": weights_fingerprint(params),
      "segments": files.fingerprint(ids),
      "row_length": row_length,
      "device": jax.devices()[0].device_kind,
      "precision": str(jax.config.jax_default_matmul_precision),
      "flags": [os.environ.get(name, "") for name in _FLAGS],
      "jax": jax.__version__,
      "medjax": _source(),
      **described,
    }
  )


def reference_logps(
  graph: nnx.GraphDef,
  params: Params,
  groups: Sequence[Segments],
  row_length: int,
  rows: int,
  sharding: jax.sharding.Sharding | None,
  described: Mapping[str, Any],
  advance: Callable[[int], None] = lambda groups: None,
) -> np.ndarray:
  """float32 [groups, branches] log-probabilities of each group's two answers under `params`, from the cache or new.

  Args:
    graph: the decoder.
    params: the reference model's parameters.
    groups: preference pairs or judged answers.
    row_length: tokens of a packed row.
    rows: rows computed at once.
    sharding: where a batch lives.
    described: goes into the key, see `cache_key`.
    advance: told how many groups have just been done.

  Raises:
    ValueError: a group has weights; answers are compared by plain sums.
  """
  if any(group.weights is not None for group in groups):
    raise ValueError("answers that are compared have no weights")
  key, shape = cache_key(params, groups, row_length, described), (len(groups), len(groups[0].completions))
  path = cache_directory() / "reference" / f"{key}.npy"
  logps = _read(path, key, shape) if processes.is_first() else None
  if processes.of_first(logps is not None):  # of several processes the first one's cache counts
    advance(len(groups))
    return processes.array_of_first(np.zeros(shape, np.float32) if logps is None else logps)
  logps = np.stack(score(graph, params, groups, row_length, rows, sharding, advance))
  if processes.is_first():
    _write(path, key, logps)
  return logps


def _read(path: pathlib.Path, key: str, shape: tuple[int, int]) -> np.ndarray | None:
  """The array of a cache file; None where there is no file, or with a warning where it is not what was written."""
  try:
    data = path.read_bytes()
  except FileNotFoundError:
    return None
  except OSError as error:
    return _passed_over(path, error.strerror)
  array, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
  if digest != _digest(key, array):
    return _passed_over(path, "its checksum does not fit")
  logps = np.load(io.BytesIO(array), allow_pickle=False)
  if (logps.shape, logps.dtype) != (shape, np.float32):
    return _passed_over(path, f"it holds {logps.dtype} {logps.shape}")
  return logps


def _passed_over(path: pathlib.Path, why: str | None) -> None:
  logging.warning("cached reference log-probabilities %s are not used (%s); they are computed again", path, why)


def _write(path: pathlib.Path, key: str, logps: np.ndarray) -> None:
  """Writes the array and behind it a checksum; warns where that cannot be done, as the cache can be done without."""
  buffer = io.BytesIO()
  np.save(buffer, logps, allow_pickle=False)
  try:
    with files.write_aside(path, binary=True) as file:
      file.write(buffer.getvalue() + _digest(key, buffer.getvalue()))
  except OSError as error:
    logging.warning(
      "reference log-probabilities cannot be kept in %s (%s); a later run computes them again, unless MEDJAX_CACHE is "
      "set to a folder with room",
      *(path.parent, error.strerror),
    )


def _digest(key: str, array: bytes) -> bytes:
  """Of a file's bytes and of what it is the cache, so that one file does not pass for another."""
  return hashlib.sha256(key.encode() + array).digest()
