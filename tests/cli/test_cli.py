"""The command line: exit codes, one-line errors, help; verbs run in this process with the work replaced."""

import json
import os
import pathlib
import re
import subprocess
import sys
import types

import pytest

import medjax
from medjax import config as schema
from medjax.cli import generate, main, models
from medjax.errors import RunError, Stopped, UserError
from medjax.evaluation.options import Options
from medjax.models.families import PRESETS
from medjax.study.subgroups import Column


@pytest.fixture
def replace(monkeypatch):
  """Puts functions in the place of a module that a verb imports."""
  return lambda module, **functions: monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**functions))


def raising(error):
  def function(*args):
    raise error

  return function


def errors(capsys):
  """Stderr, which must be one line."""
  text = capsys.readouterr().err
  assert text.count("\n") == 1, text
  return text.strip()


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["trian"], "medjax: unknown verb 'trian'; did you mean train?"),
    (["xyz"], "medjax: unknown verb 'xyz'; verbs are tasks, models"),
    (["--versoin"], "medjax: unknown flag '--versoin'"),
    (["train"], "medjax train: --workdir is needed"),
    (["train", "--workdir"], "medjax train: missing value for flag --workdir"),
    (["train", "--workdr=x"], "medjax train: unknown flag --workdr; did you mean --workdir?"),
    (["train", "--confg=x"], "medjax train: unknown flag --confg; did you mean --config?"),
    (["train", "--workdir=x", "y"], "medjax train: 'y' is no flag; write --FLAG=VALUE"),
    (["train", "--workdir=x", "--config"], "medjax train: --config needs a value"),
    (["train", "--workdir=x", "--config=none.py"], "medjax train: config file none.py does not exist"),
    (["train", "--workdir=x", "--config.sed=1"], "unknown config key 'sed'; did you mean seed?"),
    (["train", "--workdir=x", "--config.seed=a"], "config.seed is 'a'; it must be a whole number"),
    (["train", "--workdir=x"], "neither config.task nor config.data.source is set"),
    (["train", "--workdir=x", "--config.task=triage", "--config.method=base"], "which trains nothing"),
    (["models", "--config=x"], "medjax models: models takes no --config"),
    (["models", "--json=perhaps"], "--json is 'perhaps': it takes no value, or true or false"),
    (["generate", "--prompts=none.txt"], "--prompts is 'none.txt': no such file"),
    (["generate", "--prompts=-", "--max_new_tokens=x"], "--max_new_tokens is 'x': it must be a whole number"),
    (["generate", "--prompts=-", "--max_new_tokens=0"], "--max_new_tokens is '0'"),
    (["generate", "--prompts=-", "--temperature=hot"], "--temperature is 'hot': it must be a number"),
    (["generate", "--prompts=-", "--top_p=0"], "--top_p is 0: it must be more than 0"),
    (["generate", "--prompts=-", "--stop="], "--stop holds an empty text"),
    (["eval", "--checkpoint=c", "--workdir=w", "--stop=a", "--stop="], "--stop holds an empty text"),
    (["eval", "--checkpoint=c", "--workdir=w", "--split=dev"], "--split is 'dev'"),
    (["eval", "--checkpoint=c", "--workdir=w"], "config.task is empty; name the task"),
    (["eval", "--checkpoint=c", "--workdir=w", "--config.task=triage", "--name=a/b"], "--name is 'a/b'"),
    (["predict", "--checkpoint=c", "--output=o", "--config.task=t", "--input=none"], "--input is 'none': no such file"),
  ],
)
def test_unusable_command_lines_end_with_2_and_one_line(argv, message, capsys, replace):
  assert main.main(argv) == 2
  assert message in errors(capsys)


@pytest.mark.parametrize(
  ("error", "code", "line"),
  [
    (UserError("bad row"), 2, "medjax train: bad row"),
    (RunError("loss is not finite"), 1, "medjax train: loss is not finite"),
    (Stopped("stopped at step 4"), 75, "medjax train: stopped at step 4"),
    (KeyboardInterrupt(), 1, "medjax train: interrupted"),
    (
      ValueError("two\nlines"),
      1,
      "medjax train: unexpected ValueError (--debug shows its message and where it came from)",
    ),
  ],
)
def test_exit_codes_of_what_ends_a_run(error, code, line, capsys, replace):
  replace("medjax.training.loop", train=raising(error))
  argv = ["train", "--workdir=x", "--config.task=triage"]
  assert main.main(argv) == code
  assert errors(capsys) == line
  assert main.main([*argv, "--debug"]) == code
  assert "Traceback" in capsys.readouterr().err


def test_train_passes_config_and_workdir_and_ends_with_what_it_did(tmp_path, replace, capsys):
  seen = []

  def train(config, workdir):
    seen.append((config, workdir))
    return types.SimpleNamespace(steps=7, tokens=300, seconds=2.0, metrics={"loss": 0.25})

  replace("medjax.training.loop", train=train)
  file = tmp_path / "c.py"
  file.write_text(
    "from medjax.config import base_config\ndef get_config(t):\n  c = base_config()\n  c.task = t\n  return c"
  )
  argv = ["train", f"--config={file}:triage", "--config.seed", "3", "--workdir", str(tmp_path)]
  assert main.main(argv) == 0
  ((config, workdir),) = seen
  assert (config.task, config.seed, workdir) == ("triage", 3, tmp_path)
  told, *paths = capsys.readouterr().out.splitlines()
  assert told == "step 7: loss 0.2500; 300 tokens at 150 tokens/s"
  assert paths == [f"{tmp_path}/checkpoints/7", f"{tmp_path}/metrics.jsonl"]


def test_eval_reads_the_config_of_the_checkpoint_and_prints_metrics(tmp_path, replace, capsys):
  saved = schema.as_dict(schema.load("", {"task": "triage", "seed": "5"}))
  (tmp_path / "config.json").write_text(json.dumps(saved))
  seen = []

  def evaluate(config, checkpoint, split, out, options, stop):
    seen.append((config.seed, checkpoint, split, out, stop, *options.asked()))
    return {"urgency": {"accuracy": 0.5, "n": 4}}

  replace("medjax.evaluation.evaluate", evaluate=evaluate)
  argv = ["eval", f"--checkpoint={tmp_path}", f"--workdir={tmp_path}", "--config.seed=6"]
  assert main.main(argv) == 0
  text = capsys.readouterr().out
  assert re.search(r"urgency.accuracy +0.5000\n", text) and str(tmp_path / "eval/validation/metrics.json") in text
  assert main.main([*argv, "--json", "--split=test", "--name=final", "--stop=\n", "--stop=So, then"]) == 0
  assert json.loads(capsys.readouterr().out) == {"urgency": {"accuracy": 0.5, "n": 4}}
  assert main.main(["eval", "--checkpoint=embedded:m", f"--workdir={tmp_path}"]) == 0
  assert main.main([*argv, "--prior=batch", "--calibrate=temperature"]) == 0
  assert main.main([*argv, "--stop=a"]) == 0
  assert seen == [
    (6, str(tmp_path), "validation", tmp_path / "eval" / "validation", ()),
    (6, str(tmp_path), "test", tmp_path / "eval" / "final", ("\n", "So, then")),
    (5, "embedded:m", "validation", tmp_path / "eval" / "embedded-m-validation", ()),
    (
      *(6, str(tmp_path), "validation", tmp_path / "eval" / "validation-batch-temperature", ()),
      *("--prior=batch", "--calibrate=temperature"),
    ),
    (6, str(tmp_path), "validation", tmp_path / "eval" / "validation-stop", ("a",)),
  ]


def test_eval_every_passes_on_how_labels_are_chosen(tmp_path, replace):
  saved = schema.as_dict(schema.load("", {"task": "triage"}))
  (tmp_path / "config.json").write_text(json.dumps(saved))
  seen = []
  replace("medjax.evaluation.every", evaluate_every=lambda *given, **how: seen.append(how) or {})
  argv = ["eval", "--every", f"--workdir={tmp_path}", "--split=validation", "--prior=validation", "--stop=x"]
  assert main.main(argv) == 0
  assert (seen[0]["options"].prior, seen[0]["options"].calibrate, list(seen[0]["stop"])) == (
    "validation",
    "none",
    ["x"],
  )


def test_the_config_of_a_model_is_not_taken_for_that_of_a_run(tmp_path, replace, capsys):
  (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
  seen = []
  replace("medjax.evaluation.evaluate", evaluate=lambda config, *others, **more: seen.append(config.task) or {})
  argv = ["eval", f"--checkpoint={tmp_path}", f"--workdir={tmp_path / 'out'}"]
  assert main.main(argv) == 2
  assert "name the task to evaluate with --config=FILE or --config.task=NAME" in errors(capsys)
  assert main.main([*argv, "--config.task=triage"]) == 0 and seen == ["triage"]


def test_damaged_saved_config_is_named(tmp_path, replace, capsys):
  (tmp_path / "config.json").write_text("{")
  assert main.main(["eval", f"--checkpoint={tmp_path}", f"--workdir={tmp_path}"]) == 2
  assert str(tmp_path / "config.json") in errors(capsys)


def test_predict_passes_its_files(tmp_path, replace):
  seen = []
  replace("medjax.evaluation.evaluate", predict=lambda *args: seen.append(args[1:]))
  rows = tmp_path / "rows.csv"
  rows.write_text("message\nhello\n")
  argv = ["predict", "--config.task=triage", "--checkpoint=c", f"--input={rows}", f"--output={tmp_path}/out.jsonl"]
  assert main.main([*argv, "--prior=content_free"]) == 0
  assert seen == [("c", rows, tmp_path / "out.jsonl", Options(prior="content_free"))]


def test_study_prints_the_table_and_its_files_or_only_json(tmp_path, replace, capsys):
  asked = []

  def study(config, workdir, examples, options, processes, allow_second_look, columns):
    asked.append((examples, options, processes.parallel, allow_second_look, columns))
    return {"results": []}

  replace("medjax.study.run", study=study)
  replace("medjax.study.report", console_table=lambda study: f"table of {len(study['results'])}")
  argv = ["study", "--config.study.tasks=triage", f"--workdir={tmp_path}"]
  assert main.main(argv) == 0
  assert capsys.readouterr().out == f"table of 0\n{tmp_path}/study.json\n{tmp_path}/report.md\n{tmp_path}/report.html\n"
  flags = [
    "--json",
    "--examples=2",
    "--halving=3",
    "--budget=500",
    "--prior=batch",
    "--parallel=2",
    "--allow_second_look",
  ]
  assert main.main([*argv, *flags, "--subgroups=age:10"]) == 0
  assert json.loads(capsys.readouterr().out) == {"results": []}
  assert asked[0] == (0, {}, 1, False, ()), "no clinical text unless it is asked for"
  assert asked[1] == (2, {"halving": 3, "budget": 500, "prior": "batch"}, 2, True, (Column("age", 10.0),))


def test_reports_are_written_again_without_a_config_or_a_study(tmp_path, capsys):
  assert main.main(["study", f"--workdir={tmp_path}", "--report_only"]) == 2
  assert f"{tmp_path}/study.json is not there" in errors(capsys)
  where = {"task": "triage", "target": "urgency", "method": "base", "seed": 0, "split": "test", "metric": "accuracy"}
  row = {**where, "primary": True, "value": 0.5, "low": 0.4, "high": 0.6, "n": 60, "groups": 60}
  (tmp_path / "study.json").write_text(json.dumps({"results": [row], "comparisons": [], "recommendations": []}))
  assert main.main(["study", f"--workdir={tmp_path}", "--report_only"]) == 0
  assert f"{tmp_path}/report.html" in capsys.readouterr().out
  assert "0.500" in (tmp_path / "report.html").read_text() and "0.500" in (tmp_path / "report.md").read_text()


def test_generate_prints_a_json_line_for_each_prompt(tmp_path, replace, capsys, monkeypatch):
  asked = []

  class Model:
    def generate(self, prompts, max_new_tokens, **options):
      asked.append((prompts, max_new_tokens, options))
      return ["première", "zweite"]

  monkeypatch.setattr(medjax, "load", lambda name, dtype: Model(), raising=False)
  file = tmp_path / "prompts.jsonl"
  file.write_text('plain text\n\n{"id": 9, "prompt": "two"}\n')
  assert main.main(["generate", f"--prompts={file}", "--max_new_tokens=5", "--chat", "--temperature=0.7"]) == 0
  assert capsys.readouterr().out == (
    '{"prompt_index": 0, "completion": "première"}\n{"prompt_index": 1, "id": 9, "completion": "zweite"}\n'
  )
  options = {"temperature": 0.7, "top_p": 1.0, "seed": 0, "chat": True, "stop": ()}
  assert asked == [(["plain text", "two"], 5, options)]
  assert main.main(["generate", f"--prompts={file}", "--top_p=0.9", "--stop=a,b", "--stop= c"]) == 0
  assert asked[1][2] == {"temperature": 0.0, "top_p": 0.9, "seed": 0, "chat": False, "stop": ("a,b", " c")}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("\n \n", "stdin holds no prompts"),
    ('ok\n{"prompt": ', r"stdin line 2: not JSON \("),
    ('{"promt": "x"}', 'stdin line 1: needs "prompt": TEXT'),
    ('{"prompt": ""}', 'stdin line 1: needs "prompt": TEXT'),
    ('{"messages": []}', 'stdin line 1: needs "prompt": TEXT'),
    ('{"messages": [{"role": "user"}]}', 'stdin line 1: needs "prompt": TEXT'),
  ],
)
def test_unusable_prompts_are_refused_with_the_line(text, message):
  with pytest.raises(UserError, match=message):
    generate.read_prompts(text, "stdin")


def test_parameter_counts_are_those_of_the_published_models():
  counts = {name: models.parameters(config) for name, config in PRESETS.items()}
  published = {
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "smollm3-3b": 3_075_098_624,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.2": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma2-27b": 27_227_128_320,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "gemma3-4b": 4_300_079_472 - 416_866_032 - 2_950_272,  # without the vision tower and its projector
    "phi3-mini-4k": 3_821_079_552,
    "phi4-mini": 3_836_021_760,
    "phi4-14b": 14_659_507_200,
  }
  assert published.items() <= counts.items()


def test_models_and_tasks_as_json(capsys, replace):
  assert main.main(["models", "--json"]) == 0
  rows = json.loads(capsys.readouterr().out)
  assert {"embedded:smollm2-135m", *PRESETS} == {row["model"] for row in rows}
  assert main.main(["tasks", "--json"]) == 0
  triage = next(row for row in json.loads(capsys.readouterr().out) if row["task"] == "triage")
  assert set(triage["targets"]) == {"provider", "urgency"} and triage["targets"]["urgency"]["ordinal"]


@pytest.mark.parametrize("verb", main.VERBS)
def test_help_of_each_verb_lists_its_flags_only(verb, capsys):
  assert main.main([verb, "--help"]) == 0
  text = capsys.readouterr().out
  assert text.startswith(f"medjax {verb}: ") and f"medjax {verb}" in text.partition("Example:")[2]
  assert "--debug" in text and "--alsologtostderr" not in text and "--flagfile" not in text
  assert max(map(len, text.splitlines())) <= 120


def run(*words, **options):
  command = [sys.executable, "-m", "medjax", *words]
  cwd = pathlib.Path(medjax.__file__).parents[1]
  return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, **options)


def test_the_command_itself():
  done = run("--version")
  assert (done.returncode, done.stdout, done.stderr) == (0, f"medjax {medjax.__version__}\n", "")
  listed = run()
  assert listed.returncode == 0 and all(f"  {verb}" in listed.stdout for verb in main.VERBS)
  refused = run("train", "--workdir=x", "--config.train.stpes=3")
  assert refused.returncode == 2 and refused.stdout == ""
  assert refused.stderr == "medjax train: unknown config key 'train.stpes'; did you mean train.steps?\n"


def test_a_reader_that_leaves_ends_the_command_quietly():
  reading, writing = os.pipe()
  os.close(reading)
  command = [sys.executable, "-m", "medjax", "--help"]
  done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=300)
  os.close(writing)
  assert done.returncode == 1 and done.stderr == "medjax: stdout was closed before all was written\n"


def test_help_does_not_import_jax():
  code = (
    "import sys; from medjax.cli import main; main.main([]); "
    "[main.main([verb, '--help']) for verb in main.VERBS]; sys.exit('jax' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300).returncode == 0


def test_compiled_programs_are_kept_in_the_cache_directory(tmp_path):
  code = (
    "from medjax import runtime; runtime.quiet(); runtime.keep_compiled_programs(); import jax; "
    "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0); jax.jit(lambda x: x + 1)(1)"
  )
  environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
  subprocess.run(
    [sys.executable, "-c", code], env={**environment, "MEDJAX_CACHE": str(tmp_path)}, check=True, timeout=300
  )
  assert any((tmp_path / "xla").iterdir())
