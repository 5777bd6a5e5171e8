"""Processes of one machine meet where nobody else can connect."""

import ipaddress
import os
import subprocess
import sys

import jax
import pytest
from processes import free_port

from medjax import processes
from medjax.errors import UserError

# Prints what the process listens at, once it has computed together with the other.
LISTENING = """
import os, pathlib
from medjax import processes
processes.join()
import jax
from jax.experimental import multihost_utils
multihost_utils.process_allgather(jax.numpy.ones(1))
own = set()
for path in pathlib.Path("/proc/self/fd").iterdir():
  try:
    own.add(os.readlink(path))
  except OSError:  # the one that lists them
    pass
for name in ("tcp", "tcp6"):
  for line in pathlib.Path("/proc/net", name).read_text().splitlines()[1:]:
    _, local, _, state, *_, inode = line.split()[:10]
    if state == "0A" and f"socket:[{inode}]" in own:
      print("listens", local)
multihost_utils.sync_global_devices("listed")
processes.leave(0)
"""


@pytest.mark.parametrize(
  ("coordinator", "bound"),
  [("localhost:1234", "localhost:1234"), ("127.0.0.1:1234", "127.0.0.1:1234"), ("node-1:1234", None)],
)
def test_the_coordinator_listens_where_the_others_are(coordinator, bound, monkeypatch):
  for name, value in (("COORDINATOR", coordinator), ("PROCESSES", "2"), ("PROCESS_ID", "0")):
    monkeypatch.setenv(f"MEDJAX_{name}", value)
  assert processes._from_environment()["coordinator_bind_address"] == bound


def address(shown: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
  """The address of `/proc/net/tcp`: 32-bit words, each in the machine's byte order."""
  digits = shown.split(":")[0]
  packed = b"".join(int(digits[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(digits), 8))
  found = ipaddress.ip_address(packed)
  return getattr(found, "ipv4_mapped", None) or found


def test_processes_of_one_machine_listen_on_its_loopback_only():
  port = free_port()
  each = [
    subprocess.Popen(
      [sys.executable, "-c", LISTENING],
      env={**os.environ, "MEDJAX_COORDINATOR": f"localhost:{port}", "MEDJAX_PROCESSES": "2", "MEDJAX_PROCESS_ID": own},
      stdout=subprocess.PIPE,
      text=True,
    )
    for own in "01"
  ]
  try:
    printed = [process.communicate(timeout=300)[0] for process in each]
  finally:
    for process in each:
      process.kill()
  listens = [[line.split()[1] for line in text.splitlines() if line.startswith("listens ")] for text in printed]
  assert f":{port:04X}" in " ".join(listens[0]), "the coordinator is seen"
  assert all(listens) and all(address(shown).is_loopback for of_one in listens for shown in of_one), listens


@pytest.mark.parametrize(("coordinator", "moved"), [("localhost:1", True), ("node-1:1", False)])
def test_gloo_listens_on_the_loopback_where_the_coordinator_does(coordinator, moved, monkeypatch):
  from jax._src.lib import _jax

  asked = []
  monkeypatch.setattr(_jax, "make_gloo_tcp_collectives", lambda **named: asked.append(named))
  monkeypatch.setattr(jax.distributed, "initialize", lambda **_: None)
  monkeypatch.setattr(processes, "_keep_stdout", lambda: None)
  monkeypatch.setattr(jax.config, "update", lambda *_: None)
  for name, value in (("COORDINATOR", coordinator), ("PROCESSES", "2"), ("PROCESS_ID", "0")):
    monkeypatch.setenv(f"MEDJAX_{name}", value)
  processes.join()
  _jax.make_gloo_tcp_collectives(distributed_client=None)
  assert asked == [{"distributed_client": None, **({"hostname": "127.0.0.1"} if moved else {})}]


def test_tls_that_this_jax_does_not_have_is_not_left_out_in_silence(monkeypatch):
  monkeypatch.setenv("MEDJAX_DISTRIBUTED", "1")
  monkeypatch.setenv("JAX_MTLS_CERT_FILE", "own.pem")
  monkeypatch.delattr(type(jax.config), "jax_mtls_cert_file", raising=False)
  with pytest.raises(UserError, match="JAX_MTLS_CERT_FILE is set, but JAX .* has no TLS"):
    processes.join()
