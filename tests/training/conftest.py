"""What the tests of training share: a tiny model with rows, and a cache of their own."""

import make_home
import pytest
from processes import forks


@pytest.fixture(scope="session")
def home(tmp_path_factory):
  """A tiny model, and rows of which the first 16 train and the last 4 validate."""
  path = tmp_path_factory.mktemp("home")
  make_home.write(path)
  return path


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
  with forks(tmp_path_factory.mktemp("compiled")) as found:
    yield found


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("MEDJAX_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache"
