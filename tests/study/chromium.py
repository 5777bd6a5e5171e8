"""Opens a page in headless Chromium and tells what happened: over DevTools' pipe, without a driver."""

import base64
import dataclasses
import json
import os
import pathlib
import select
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
  *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
  *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
)
SECONDS = 60


def find() -> str:
  """The program that $MEDJAX_CHROMIUM names, else one by a usual name; where there is none, CI fails, others skip."""
  names = [os.environ["MEDJAX_CHROMIUM"]] if os.environ.get("MEDJAX_CHROMIUM") else NAMES
  for path in map(shutil.which, names):
    if path:
      return path
  missing = f"no Chromium ({', '.join(names)}) to open the report with: apt-get install -y chromium, or MEDJAX_CHROMIUM"
  assert not os.environ.get("CI"), missing
  pytest.skip(missing)


@dataclasses.dataclass(frozen=True)
class Visit:
  """What a page did.

  Attributes:
    console: entries and errors.
    requests: addresses that it asked for.
    values: what scripts of ours returned.
    pdf: the page as it prints, where asked for.
  """

  console: list[str]
  requests: list[str]
  values: list[Any]
  pdf: bytes


def visit(
  page: pathlib.Path,
  profile: pathlib.Path,
  scripts: Sequence[str] = (),
  width: int = 1100,
  media: str = "screen",
  scheme: str = "light",
  printed: bool = False,
) -> Visit:
  """Loads the page in a new profile, for a medium and a colour scheme, and evaluates `scripts` in it in their order."""
  browser = find()
  to_browser, from_browser = os.pipe(), os.pipe()
  # Chromium reads commands from file descriptor 3 and writes to 4.
  command = f'exec "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
  arguments = [browser, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
  with open(profile.with_suffix(".log"), "wb") as log:
    process = subprocess.Popen(
      ["bash", "-c", command, "bash", *arguments],
      pass_fds=(to_browser[0], from_browser[1]),
      stdout=log,
      stderr=log,
    )
  os.close(to_browser[0])
  os.close(from_browser[1])
  try:
    with open(to_browser[1], "wb") as send, open(from_browser[0], "rb", buffering=0) as receive:
      return _Page(send, receive).visit(page.as_uri(), scripts, width, media, scheme, printed)
  finally:  # with its pipe closed, Chromium ends
    try:
      process.wait(10)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()


class _Page:
  """One tab: commands go out, answers and events come in as JSON with a zero byte after each."""

  def __init__(self, send, receive):
    self._send, self._receive, self._buffer, self._number = send, receive, b"", 0
    self._session: dict[str, str] = {}
    self._events: list[dict] = []

  def visit(self, address: str, scripts: Sequence[str], width: int, media: str, scheme: str, printed: bool) -> Visit:
    target = self._call("Target.createTarget", url="about:blank")["targetId"]
    session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    self._session = {"sessionId": session}
    for domain in ("Page", "Network", "Log", "Runtime"):
      self._call(f"{domain}.enable")
    # A window of its own cannot be as narrow as a phone; the page's can.
    self._call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    prefers = [{"name": "prefers-color-scheme", "value": scheme}]
    self._call("Emulation.setEmulatedMedia", media=media, features=prefers)
    self._call("Page.navigate", url=address)
    while not any(event["method"] == "Page.loadEventFired" for event in self._events):
      self._events.append(self._next())
    values = []
    for script in scripts:
      answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
      assert "exceptionDetails" not in answer, answer
      values.append(answer["result"].get("value"))
    pdf = b""
    if printed:
      pdf = base64.b64decode(self._call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])
    console, requests = [], []
    for event in self._events:
      body = event.get("params", {})
      if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
        console.append(json.dumps(body))
      if event["method"] == "Network.requestWillBeSent":
        requests.append(body["request"]["url"])
    return Visit(console, requests, values, pdf)

  def _call(self, method: str, **parameters) -> dict:
    self._number += 1
    message = {"id": self._number, "method": method, "params": parameters, **self._session}
    self._send.write(json.dumps(message).encode() + b"\0")
    self._send.flush()
    while True:
      answer = self._next()
      if answer.get("id") == self._number:
        assert "error" not in answer, answer
        return answer["result"]
      self._events.append(answer)

  def _next(self) -> dict:
    while b"\0" not in self._buffer:
      ready, _, _ = select.select([self._receive], [], [], SECONDS)
      assert ready, f"Chromium did not answer within {SECONDS} seconds"
      part = os.read(self._receive.fileno(), 1 << 16)
      assert part, "Chromium ended early; its log is beside its profile"
      self._buffer += part
    message, _, self._buffer = self._buffer.partition(b"\0")
    return json.loads(message)
