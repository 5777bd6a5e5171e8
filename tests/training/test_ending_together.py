"""A process that sees that another one failed ends, too, but with its own reason where it has one."""

import threading

import pytest

from medjax import processes


class Ended(BaseException):
  """Stands for the end of the process."""


class Values:
  """JAX's values by name, as far as they are needed."""

  def __init__(self, **values):
    self.values = {key.replace("_", "/"): value for key, value in values.items()}

  def key_value_try_get(self, key):
    return self.values[key]

  def key_value_set(self, key, value):
    if key in self.values:
      raise RuntimeError("ALREADY_EXISTS")
    self.values[key] = value


class Group:
  def __init__(self, client):
    self.index, self.count, self.client, self.left = 1, 2, client, threading.Event()


@pytest.fixture
def group(monkeypatch):
  """Process 1 of two, of which process 0 has failed."""
  found = Group(Values(medjax_failed="process 0 failed: other rows"))

  def end(code):
    raise Ended(code)

  monkeypatch.setattr(processes, "_group", found)
  monkeypatch.setattr(processes, "_POLL_SECONDS", 0.001)
  monkeypatch.setattr(processes.os, "_exit", end)
  return found


def test_one_that_waits_for_the_failed_one_ends(group, monkeypatch, capsys):
  monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.001)
  with pytest.raises(Ended, match="1"):
    processes._watch()
  assert "process 0 failed: other rows; this one (1) ends, too" in capsys.readouterr().err
  assert "medjax/left/1" in group.client.values


def test_one_that_fails_by_itself_ends_with_its_own_code(group):
  """Both refuse the same thing, and this one comes to it after it has seen that the other one failed."""
  looked = threading.Event()
  try_get = group.client.key_value_try_get

  def looking(key):
    looked.set()
    return try_get(key)

  group.client.key_value_try_get = looking
  watching = threading.Thread(target=processes._watch)
  watching.start()
  assert looked.wait(300)
  with pytest.raises(Ended, match="2"):
    processes.leave(2, "other rows")
  watching.join(300)
  assert not watching.is_alive() and group.client.values["medjax/failed"] == "process 0 failed: other rows"
