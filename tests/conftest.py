"""Every test runs on eight simulated CPU devices, with arithmetic that does not depend on the machine."""

import importlib.metadata
import os

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
# Tiny programs take longer to compile than to run: without LLVM's optimizations they compile in a tenth of the time.
FLAGS = [
  "--xla_force_host_platform_device_count=8",
  "--xla_backend_optimization_level=0",
  "--xla_llvm_disable_expensive_passes=true",
]
# Later versions do not know this flag, and XLA ends a process that it meets with an unknown one.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
  FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"  # shapes are made to fit where it is meant, never by accident
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(autouse=True)
def of_the_process(monkeypatch):
  """A verb that a test runs in its own process leaves the process's compilation cache and loggers as they are.

  Programs that come from the cache are not compiled, so tests that read what the compiler wrote would find nothing.
  """
  from medjax import runtime

  monkeypatch.setattr(runtime, "keep_compiled_programs", lambda: None)
  monkeypatch.setattr(runtime, "quiet", lambda: None)
