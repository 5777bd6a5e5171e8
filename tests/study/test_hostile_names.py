"""Labels, columns, targets and tasks may hold anything: on a terminal and in a report they are text."""

import json
import re
import subprocess
import sys

import pytest
import tiny
from markdown_it import MarkdownIt
from test_report import FULL

from medjax.cli.main import main
from medjax.console import visible, visible_lines
from medjax.study import report, report_html

ACTING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
RED = "\x1b[31m\x07\u202e\u2066\x9b2J"
NAMES = [
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  "![x](http://tracker.example/x.png)",
  "[x\\](http://tracker.example/)",
  "[x]: http://tracker.example/",
  "a|b\\|c",
  "two\nlines\r\n\n# a heading",
  "&lt;b&gt; A&E < 3 `code",
  "$\\frac$",
  '--></text></svg><svg onload="alert(1)">',
  RED,
]


@pytest.mark.parametrize(
  ("line", "shown"),
  [
    ("plain Müller, 体温 < 38 °C", "plain Müller, 体温 < 38 °C"),
    ("\x1b[31mred", "\\x1b[31mred"),
    ("a\nb\tc\r", "a\\nb\\tc\\r"),
    ("\x9b2J\u202eabc\ud800", "\\x9b2J\\u202eabc\\ud800"),
  ],
)
def test_what_acts_on_a_terminal_is_shown(line, shown):
  assert visible(line) == shown


def test_lines_of_a_text_stay_lines():
  assert visible_lines("a\x1b\n\nb\r\n") == "a\\x1b\n\nb\\r\n"


def test_a_command_that_fails_shows_control_characters(capsys):
  assert main(["data", "--config.task=triage", f"--config.data.source=/{RED}.jsonl"]) == 2
  line = capsys.readouterr().err.removesuffix("\n")
  assert "\\x1b[31m" in line and not ACTING.search(line)


def test_log_lines_show_control_characters():
  script = (
    "import sys; from medjax import runtime; runtime.quiet(); from absl import logging; logging.error(sys.argv[1])"
  )
  command = [sys.executable, "-c", script, f"column {RED}\nsecond line"]
  lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
  assert len(lines) == 2 and "\\x1b[31m" in lines[0] and not any(map(ACTING.search, lines))


@pytest.fixture(scope="module")
def task(tmp_path_factory):
  """Flags of a task whose labels and target are hostile."""
  home = tmp_path_factory.mktemp("hostile")
  tiny.write_without_torch(home / "model")
  labels = [f"low{RED}", "hi\ngh", "$\\frac$"]
  with open(home / "rows.jsonl", "w") as file:
    for at in range(60):
      row = {"note": f"sodium {at}", f"y{RED}": labels[at % 3], "split": ("train", "validation", "test")[at % 5 // 2]}
      file.write(json.dumps(row) + "\n")
  return home, (
    *("--config.task=text_classification", f"--config.data.source={home / 'rows.jsonl'}"),
    *("--config.define.prompt={note}", f"--config.define.labels=y{RED}", f"--config.model.path={home / 'model'}"),
  )


@pytest.mark.parametrize("verb", ["data", "eval", "prefer"])
def test_verbs_print_hostile_names_as_text(verb, task, tmp_path, capsys):
  home, flags = task
  words = {
    "data": [f"--workdir={tmp_path}", "--show_examples"],
    "eval": [f"--workdir={tmp_path}", f"--checkpoint={home / 'model'}", "--split=validation"],
    "prefer": [f"--output={tmp_path / 'pairs.jsonl'}"],
  }
  assert main([verb, *words[verb], *flags]) == 0
  printed = capsys.readouterr()
  assert printed.out and not ACTING.search(printed.out + printed.err)
  if verb != "prefer":
    assert "\\x1b[31m" in printed.out


def hostile(name: str) -> dict:
  """A study whose task, target, labels, columns, models and settings have this name."""
  text = json.dumps(FULL)
  for known in ("numeric_classification", "thyroid_state", "low|ish", "20 to <40", "labs.csv", "age", "cpu:0"):
    text = text.replace(f'"{known}"', json.dumps(name))
  study = json.loads(text)
  study["protocol"] |= {"model": name, name: {name: [name]}}
  return study


@pytest.mark.parametrize("name", NAMES)
def test_report_md_holds_names_as_text(name, tmp_path):
  for given in ("plain", name):
    report.write_report(hostile(given), tmp_path / f"{given == name}.md")
  plain, text = ((tmp_path / f"{given}.md").read_text() for given in (False, True))
  assert not ACTING.search(text)

  def kinds(source):
    tokens = MarkdownIt().enable("table").parse(source)
    return [token.type for token in tokens], {
      child.type
      for token in tokens
      for child in token.children or ()
      if child.type not in ("text_special", "softbreak")
    }

  # The same headings, lists and tables with the same cells, and no link, image or HTML among them.
  assert kinds(text) == kinds(plain)


@pytest.mark.parametrize("name", NAMES)
def test_report_html_holds_names_as_text(name, tmp_path):
  report_html.write_html(hostile(name), tmp_path / "report.html")
  page = (tmp_path / "report.html").read_text()
  assert not [raw for raw in ("<script", "<img", "<svg onload", 'src="http', 'href="http') if raw in page]


@pytest.mark.parametrize("name", NAMES)
def test_the_console_table_of_a_study_holds_names_as_text(name):
  rows = len(report.console_table(hostile("plain")).splitlines())
  table = report.console_table(hostile(name))
  assert not ACTING.search(table) and len(table.splitlines()) >= rows
