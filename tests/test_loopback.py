"""Processes of one machine meet where nobody else can connect."""

import pytest

from medjax import processes


@pytest.mark.parametrize(
  ("coordinator", "bound"),
  [("localhost:1234", "localhost:1234"), ("127.0.0.1:1234", "127.0.0.1:1234"), ("node-1:1234", None)],
)
def test_the_coordinator_listens_where_the_others_are(coordinator, bound, monkeypatch):
  for name, value in (("COORDINATOR", coordinator), ("PROCESSES", "2"), ("PROCESS_ID", "0")):
    monkeypatch.setenv(f"MEDJAX_{name}", value)
  assert processes._from_environment()["coordinator_bind_address"] == bound
