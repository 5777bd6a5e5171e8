"""How a process finds the others, and what it gets from them, with a stand-in for JAX's connection."""

import json

import numpy as np
import pytest

from medjax import processes
from medjax.errors import RunError, UserError

GOOD = {"MEDJAX_COORDINATOR": "10.0.0.1:1234", "MEDJAX_PROCESSES": "2", "MEDJAX_PROCESS_ID": "1"}


class Client:
  """Values by name; others have given theirs already."""

  def __init__(self, given):
    self.given, self.own = given, {}

  def key_value_set(self, name, value):
    assert name not in self.own
    self.own[name] = value

  def blocking_key_value_get(self, name, milliseconds):
    assert milliseconds > 0
    if name in self.own:
      return self.own[name]
    if name not in self.given:
      raise RuntimeError("DEADLINE_EXCEEDED")
    return self.given[name]


@pytest.fixture
def second(monkeypatch):
  """This process is number 1 of 2."""
  client = Client({"medjax/0/0": json.dumps("theirs"), "medjax/1/0": json.dumps([1, None])})
  group = type("Group", (processes._Group,), {"client": client})()
  group.index, group.count = 1, 2
  monkeypatch.setattr(processes, "_group", group)
  return client


@pytest.fixture
def variables(monkeypatch):
  monkeypatch.setattr(processes, "_keep_stdout", lambda: pytest.fail("it should have been refused"))
  for name in (*GOOD, "MEDJAX_DISTRIBUTED"):
    monkeypatch.delenv(name, raising=False)

  def put(**changes):
    for name, value in (GOOD | changes).items():
      if value:
        monkeypatch.setenv(name, value)

  return put


def test_a_process_alone_is_the_first_and_agrees_with_itself(variables):
  processes.join()
  assert (processes.is_first(), processes.count(), processes.index()) == (True, 1, 0)
  value, array = {"a": 1}, np.arange(3.0)
  assert processes.everyone(value) == [value] and processes.of_first(value) == value
  assert processes.array_of_first(array) is array
  processes.leave(1, "nobody waits")


def test_processes_give_values_in_turn_by_their_number(second):
  assert processes.everyone("mine") == ["theirs", "mine"]
  assert processes.of_first("not this one") == [1, None]
  assert second.own == {"medjax/0/1": '"mine"', "medjax/1/1": "null"}
  assert not processes.is_first()


def test_a_process_that_gives_no_value_is_an_error(second):
  processes.everyone(0), processes.everyone(0)
  with pytest.raises(RunError, match="another process does not answer: DEADLINE"):
    processes.everyone(0)


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({"MEDJAX_PROCESSES": ""}, "MEDJAX_PROCESSES is not set"),
    ({"MEDJAX_COORDINATOR": "10.0.0.1"}, "must be HOST:PORT"),
    ({"MEDJAX_COORDINATOR": ":1234"}, "must be HOST:PORT"),
    ({"MEDJAX_COORDINATOR": "10.0.0.1:0"}, "must be HOST:PORT"),
    ({"MEDJAX_COORDINATOR": "10.0.0.1:65536"}, "must be HOST:PORT"),
    ({"MEDJAX_PROCESS_ID": "2"}, "one from 0 below it"),
    ({"MEDJAX_PROCESS_ID": "-1"}, "one from 0 below it"),
    ({"MEDJAX_PROCESSES": "two"}, "one from 0 below it"),
  ],
)
def test_variables_that_make_no_sense_are_refused(variables, changes, reason):
  variables(**changes)
  with pytest.raises(UserError, match=reason):
    processes.join()
