"""The ledger of looks at the test rows: every scoring of a run on them, in the order in which they came.

`looks.jsonl` is only ever added to. Each line carries the hash of the one before it, and `looks.head.json` the number
of lines and the last one's hash, so that a line that was changed or taken away shows.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from medjax import files
from medjax.errors import UserError
from medjax.study.plan import OPTIONS

FILE, HEAD, LOCK = "looks.jsonl", "looks.head.json", "looks.lock"
_PATIENCE_SECONDS = 60.0
_HASHED = "hash"


@dataclasses.dataclass(frozen=True)
class Look:
  """One scoring of a run on the test rows.

  Attributes:
    task: of the run.
    seed: of the run.
    method: of the run.
    candidate: of the run.
    checkpoint: names the weights by their values, and what else answers, such as examples in the prompt.
    by: the command, `study` or `eval`.
  """

  task: str
  seed: int
  method: str
  candidate: int
  checkpoint: str
  by: str = "study"

  @property
  def of(self) -> tuple[str, int, str]:
    """What may be looked at once."""
    return self.task, self.seed, self.method


def record(workdir: pathlib.Path, look: Look, allow: bool = False) -> None:
  """Writes a look down before it is taken; the same weights again are no new look.

  Args:
    workdir: the study's folder.
    look: what is about to be scored.
    allow: whether other weights may be scored where there was a look before.

  Raises:
    UserError: there was a look with other weights and none more is allowed, or the ledger was changed.
  """
  with _locked(workdir) as file:
    known = _read(file, workdir)
    before = [one for one, _ in known if one.of == look.of]
    if any(one.checkpoint == look.checkpoint for one in before):
      return
    if before and not allow:
      raise UserError(
        f"{workdir / FILE}: the test rows of {look.task} were scored for {look.method}, seed {look.seed}, with other "
        "weights before, or another label prior or stop string; a second look needs --allow_second_look, and the "
        "report lists it"
      )
    values = {**dataclasses.asdict(look), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    values["allowed"] = bool(before)
    previous = known[-1][1] if known else ""
    own = files.fingerprint([previous, values])
    file.write(json.dumps({**values, _HASHED: own}) + "\n")
    file.flush()
    os.fsync(file.fileno())
    files.write_json(workdir / HEAD, {"lines": len(known) + 1, _HASHED: own}, private=True)


def read(workdir: pathlib.Path) -> list[Look]:
  """All looks of a study, in order; UserError where the ledger was changed."""
  with _locked(workdir) as file:
    return [look for look, _ in _read(file, workdir)]


def second(looks: Sequence[Look]) -> list[Look]:
  """Those that had another of the same task, seed and method before them."""
  return [look for index, look in enumerate(looks) if look.of in {earlier.of for earlier in looks[:index]}]


def study_of(run: pathlib.Path) -> pathlib.Path | None:
  """The study's folder that the folder of a run lies in: `STUDY/runs/TASK/seedN/METHOD/candidateN`; None elsewhere."""
  folders = run.absolute().parents
  if len(folders) < 5 or folders[3].name != "runs" or not (folders[4] / OPTIONS).exists():
    return None
  return folders[4]


@contextlib.contextmanager
def _locked(workdir: pathlib.Path) -> Iterator[IO[str]]:
  """The ledger, made where there is none, for this process alone."""
  try:
    with (
      files.locked(workdir / LOCK, files.this_process(), _PATIENCE_SECONDS),
      open(workdir / FILE, "a+", encoding="utf-8", errors="surrogateescape") as file,
    ):
      yield file
  except BlockingIOError as error:
    raise UserError(f"{workdir / FILE} is in use by another command ({error.strerror}); wait for it") from None


def _read(file: IO[str], workdir: pathlib.Path) -> list[tuple[Look, str]]:
  """Looks with their hashes. A last line without its end was cut off by a crash before its look, and is dropped."""
  file.seek(0)
  text = file.read()
  if not text.endswith("\n"):
    whole = text.rpartition("\n")[0]
    text = f"{whole}\n" if whole else ""
    file.truncate(len(text.encode(errors="surrogateescape")))
  found: list[tuple[Look, str]] = []
  for number, line in enumerate(text.splitlines(), start=1):
    try:
      values: dict[str, Any] = json.loads(line)
      own = values.pop(_HASHED)
      intact = own == files.fingerprint([found[-1][1] if found else "", values])
      look = Look(**{field.name: values[field.name] for field in dataclasses.fields(Look)})
    except (ValueError, LookupError, TypeError, AttributeError):
      intact = False
    if not intact:
      raise UserError(
        f"{workdir / FILE} line {number} was changed, so how often the test rows were scored is not known; put the "
        "ledger back, or run the study in another --workdir"
      )
    found.append((look, own))
  _check_head(workdir, [own for _, own in found])
  return found


def _check_head(workdir: pathlib.Path, hashes: Sequence[str]) -> None:
  """Raises UserError where lines are missing at the end. A crash may leave one line that the head does not know yet."""
  try:
    head = json.loads((workdir / HEAD).read_text(encoding="utf-8"))
    lines, last = int(head["lines"]), str(head[_HASHED])
  except FileNotFoundError:
    lines, last = 0, ""
  except (OSError, ValueError, LookupError, TypeError):
    lines, last = -1, ""
  whole = 0 <= lines <= len(hashes) <= lines + 1 and (not lines or hashes[lines - 1] == last)
  if not whole:
    raise UserError(
      f"{workdir / FILE} and {HEAD} beside it do not fit: lines are missing or one was changed, so how often the test "
      "rows were scored is not known; put both back, or run the study in another --workdir"
    )
