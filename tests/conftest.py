"""Every test runs on eight simulated CPU devices, with arithmetic that does not depend on the machine."""

import ctypes
import gc
import importlib.metadata
import importlib.util
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile

import pytest
import reaper

MOST_BYTES_KEPT = 1_300_000_000

os.environ["JAX_PLATFORMS"] = "cpu"
# Tiny programs take longer to compile than to run: without LLVM's optimizations they compile in a tenth of the time.
FLAGS = [
  "--xla_force_host_platform_device_count=8",
  "--xla_backend_optimization_level=0",
  "--xla_llvm_disable_expensive_passes=true",
]
# It halves the time to compile. Later versions do not know this flag, and an unknown one ends the process.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
  FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"  # shapes are made to fit where it is meant, never by accident
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


MISSING = [name for name in ("torch", "peft", "trl") if importlib.util.find_spec(name) is None]
NEEDS = re.compile(r"^(import|from) (torch|peft|trl|families|gguf_files)\b", re.MULTILINE)


def pytest_report_header():
  return f"left out is what compares with {', '.join(MISSING)}, not installed here" if MISSING else None


def pytest_ignore_collect(collection_path):
  return True if MISSING and collection_path.suffix == ".py" and NEEDS.search(collection_path.read_text()) else None


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call():
  """A test that comes to compare with what is not installed is left out."""
  try:
    return (yield)
  except ModuleNotFoundError as error:
    if error.name in MISSING:
      pytest.skip(f"needs {error.name}")
    raise


def pytest_configure(config):
  config.reaper = reaper.start()
  if not hasattr(config, "workerinput"):  # the workers inherit it
    os.environ["MEDJAX_CACHE"] = tempfile.mkdtemp(prefix="medjax-tests-")
    config.add_cleanup(lambda: shutil.rmtree(os.environ["MEDJAX_CACHE"], ignore_errors=True))
  # What a shell runs in the background has SIGINT ignored, under nohup SIGHUP, too; so would what tests start.
  for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
      signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(items):
  """MEDJAX_SHUFFLE=SEED: files in another order, and the tests in each of them; fixtures of a file are made once."""
  if seed := os.environ.get("MEDJAX_SHUFFLE"):
    draw = random.Random(seed)
    files = sorted({item.path for item in items})
    place = dict(zip(files, draw.sample(range(len(files)), len(files)), strict=True))
    items.sort(key=lambda item: (place[item.path], draw.random()))


def pytest_collection_finish():
  """What the imports made stays: collecting garbage among it is a fifth of the time that tests take."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True)
def of_the_process(monkeypatch):
  """A verb that a test runs in its own process leaves the process's compilation cache and loggers as they are.

  Programs that come from the cache are not compiled, so tests that read what the compiler wrote would find nothing.
  """
  from medjax import runtime

  monkeypatch.setattr(runtime, "keep_compiled_programs", lambda: None)
  monkeypatch.setattr(runtime, "quiet", lambda: None)


@pytest.fixture(autouse=True)
def rows_are_named(request, monkeypatch):
  """Rows of tests are nobody's: messages name them, but in test_row_ids.py."""
  from medjax import privacy

  if request.module.__name__.rpartition(".")[2] != "test_row_ids":
    monkeypatch.setattr(privacy, "row", lambda id_: f"row {id_}")


@pytest.fixture(scope="session", autouse=True)
def two_devices():
  """A mesh that leaves its sizes open has two of the eight devices: sharded as on eight, in less time."""
  import jax

  from medjax.training import mesh

  make_mesh, count = mesh.make_mesh, [2]

  def of_few(sizes, devices=None):
    few = devices is None and sorted(sizes.values()) in ([-1, 1, 1, 1], [1, 1, 1, count[0]])  # as asked, or as settled
    return make_mesh(sizes, jax.devices()[: count[0]] if few else devices)

  mesh.make_mesh = of_few
  yield count
  mesh.make_mesh = make_mesh


@pytest.fixture
def eight_devices(two_devices):
  """For tests of meshes: one that leaves its sizes open has all of the devices."""
  two_devices[0] = 8
  yield
  two_devices[0] = 2


def resident_bytes() -> int:
  return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module", autouse=True)
def memory():
  """Compiled programs and arrays grow to several gigabytes, unless they are dropped between modules."""
  yield
  if sys.platform == "linux" and resident_bytes() < MOST_BYTES_KEPT:
    return
  if "jax" in sys.modules:
    sys.modules["jax"].clear_caches()
  gc.collect()
  if sys.platform == "linux":
    ctypes.CDLL(None).malloc_trim(0)
