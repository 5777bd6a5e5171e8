"""Data of strangers runs no code: runs, predictions, models, adapters, tokenizers, data sets, templates, ledgers.

Each fixture would leave a file behind if its code ran, and none may reach the network.
"""

import json
import pathlib
import pickle
import socket

import datasets
import gguf
import numpy as np
import pytest
import tiny

from medjax import config as schema
from medjax.cli.main import main

TEMPLATES = {
  "globals": "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
  "subclasses": "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{{ c }}{% endfor %}",
  "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
  "import": "{% import 'os' as os %}{{ os.system('touch CANARY') }}",
  "include": "{% include '/etc/hostname' %}",
  "no loader": "{% extends messages[0].content %}",
  "attribute": "{{ messages|attr('__class__')|attr('__init__') }}{{ (messages|attr('append'))(1) }}",
}


@pytest.fixture
def canary(tmp_path, monkeypatch):
  """A file that hostile code makes; a test that ends with it, or with a connection that was tried, fails."""
  path, tried = tmp_path / "CANARY", []

  def connect(self, address):
    tried.append(address)
    raise OSError("no network in tests")

  monkeypatch.setattr(socket.socket, "connect", connect)
  monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
  monkeypatch.chdir(tmp_path)
  yield path
  assert not path.exists(), "hostile code ran"
  assert not tried, f"the network was asked: {tried}"


class Touch:
  """A pickle that makes a file when it is loaded."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def code(canary: pathlib.Path) -> str:
  return f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n"


def refused(capsys, *argv: str) -> str:
  """The one line that a command ends with, which must be of its own making."""
  status = main([str(word) for word in argv])
  lines = capsys.readouterr().err.strip().splitlines()
  assert status in (1, 2), lines
  assert lines[-1].startswith(f"medjax {argv[0]}: ") and "unexpected" not in lines[-1]
  return lines[-1]


def run(tmp_path, canary, **changes) -> pathlib.Path:
  """A stranger's run: its config names a Python file beside it as its task."""
  (tmp_path / "evil.py").write_text(code(canary))
  workdir = tmp_path / "run"
  (workdir / "eval" / "test").mkdir(parents=True)
  values = schema.as_dict(schema.base_config())
  values["task"] = changes.pop("task", str(tmp_path / "evil.py"))
  values["study"]["tasks"] = changes.pop("tasks", [])
  (workdir / "config.json").write_text(json.dumps(values))
  line = {"id": "1", "group": "1", "prediction": {"t": "a"}, "reference": {"t": "b"}, "text": "a"}
  (workdir / "eval" / "test" / "predictions.jsonl").write_text(json.dumps(line) + "\n")
  (workdir / "rows.csv").write_text("note\nx\n")
  return workdir


COMMANDS = {
  "eval": ["eval", "--checkpoint=RUN", "--workdir=out"],
  "best": ["eval", "--checkpoint=RUN/best", "--workdir=out"],
  "workdir": ["eval", "--checkpoint=embedded:smollm2-135m", "--workdir=RUN"],
  "every": ["eval", "--every", "--workdir=RUN"],
  "predict": ["predict", "--checkpoint=RUN", "--input=RUN/rows.csv", "--output=out.jsonl"],
  "prefer": ["prefer", "--checkpoint=RUN", "--output=out.jsonl"],
  "judge": ["judge", "--predictions=RUN/eval/test/predictions.jsonl", "--judge=true", "--output=out"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_task_of_a_strangers_run_does_not_run(name, tmp_path, canary, capsys):
  workdir = run(tmp_path, canary)
  line = refused(capsys, *(word.replace("RUN", str(workdir)) for word in COMMANDS[name]))
  assert "evil.py as its task, which runs only where the command itself names it" in line


@pytest.mark.parametrize("task", ["evil.py:name", "./run/../evil.py", "evil.py:"])
def test_no_way_of_writing_a_python_file_gets_through(task, tmp_path, canary, capsys):
  workdir = run(tmp_path, canary, task=task)
  assert "names the Python file" in refused(capsys, "eval", f"--checkpoint={workdir}", "--workdir=out")


def test_the_tasks_of_a_strangers_study_do_not_run(tmp_path, canary, capsys):
  workdir = run(tmp_path, canary, task="triage", tasks=["evil.py"])
  (workdir / "study.json").write_text(json.dumps({"protocol": {"tasks": ["evil.py"]}}))
  line = refused(capsys, "study", f"--workdir={workdir}", "--report_only", "--examples=1")
  assert "names the Python file evil.py" in line


def test_a_task_that_the_command_names_runs(tmp_path, capsys):
  mine = tmp_path / "mine.py"
  workdir = run(tmp_path, tmp_path / "ran")
  mine.write_text(code(tmp_path / "mine_ran"))
  refused(capsys, "eval", f"--checkpoint={workdir}", f"--config.task={mine}", "--workdir=out")
  assert (tmp_path / "mine_ran").exists() and not (tmp_path / "ran").exists()


@pytest.fixture
def model(tmp_path):
  return tiny.write_model(tmp_path / "model")


def change(path: pathlib.Path, **values) -> None:
  path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_code_beside_a_model_does_not_run(model, canary, capsys):
  for name in ("modeling_evil.py", "tokenization_evil.py", "configuration_evil.py", "conftest.py"):
    (model / name).write_text(code(canary))
  auto = {"AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}
  change(model / "config.json", auto_map=auto)
  tokenizer = {"AutoTokenizer": ["tokenization_evil.T", "tokenization_evil.T"]}
  change(model / "tokenizer_config.json", auto_map=tokenizer, tokenizer_class="T")
  main(["generate", f"--model={model}", "--prompts=rows.txt"])
  (model.parent / "rows.txt").write_text("a\n")
  assert main(["generate", f"--model={model}", "--prompts=rows.txt", "--max_new_tokens=1"]) in (0, 2)


def test_pickled_weights_are_not_opened(model, canary, capsys):
  (model / "model.safetensors").unlink()
  (model / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(canary)))
  (model.parent / "rows.txt").write_text("a\n")
  assert "holds pickled weights" in refused(capsys, "generate", f"--model={model}", "--prompts=rows.txt")


def test_a_pickled_adapter_is_not_opened(model, canary, capsys):
  adapter = model.parent / "adapter"
  adapter.mkdir()
  (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Touch(canary)))
  settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
  (adapter / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(model)}))
  (model.parent / "rows.txt").write_text("a\n")
  refused(capsys, "generate", f"--model={adapter}", "--prompts=rows.txt")


def test_the_base_model_that_an_adapter_names_is_not_fetched(model, canary, capsys):
  adapter = model.parent / "adapter"
  adapter.mkdir()
  (model.parent / "rows.txt").write_text("a\n")
  for name in ("evil/base", "hf:evil/base"):
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": name}))
    line = refused(capsys, "generate", f"--model={adapter}", "--prompts=rows.txt")
    assert "fetch it with `hf download evil/base`" in line


def test_a_mistyped_path_is_not_sent_to_the_hub(canary, capsys):
  pathlib.Path("rows.txt").write_text("a\n")
  line = refused(capsys, "generate", "--model=runs/smith_jane_mrn4711", "--prompts=rows.txt")
  assert "hf:owner/name" in line
  line = refused(capsys, "data", "--config.data.source=runs/smith_jane_mrn4711", "--workdir=out")
  assert "hf:owner/name" in line


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_reaches_nothing_but_its_messages(name, model, canary, capsys):
  (model / "chat_template.jinja").write_text(TEMPLATES[name].replace("CANARY", str(canary)))
  (model.parent / "rows.txt").write_text("a\n")
  line = refused(capsys, "generate", f"--model={model}", "--prompts=rows.txt", "--chat")
  assert "template" in line


def test_the_template_of_a_gguf_reaches_nothing(tmp_path, canary, capsys):
  path = tmp_path / "model.gguf"
  writer = gguf.GGUFWriter(path, "llama")
  writer.add_chat_template(TEMPLATES["globals"].replace("CANARY", str(canary)))
  writer.add_tokenizer_model("gpt2")
  writer.add_token_list(["a", "b"])
  writer.add_tensor("token_embd.weight", np.zeros((2, 4), np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  (tmp_path / "rows.txt").write_text("a\n")
  refused(capsys, "generate", f"--model={path}", "--prompts=rows.txt", "--chat")


def test_a_loading_script_of_a_data_set_does_not_run(tmp_path, canary, capsys):
  folder = tmp_path / "notes"
  folder.mkdir()
  (folder / "notes.py").write_text(code(canary))
  assert "holds no train" in refused(capsys, "data", f"--config.data.source={folder}", "--workdir=out")
  assert "notes.py" in refused(capsys, "data", f"--config.data.source={folder / 'notes.py'}", "--workdir=out")


@pytest.mark.parametrize("name", ["rows.pkl", "rows.npy", "rows.jsonl", "rows.csv", "rows.parquet", "rows.arrow"])
def test_a_pickle_by_any_name_is_not_opened(name, tmp_path, canary, capsys):
  (tmp_path / name).write_bytes(pickle.dumps(Touch(canary)))
  refused(capsys, "data", f"--config.data.source={tmp_path / name}", "--workdir=out")


def test_the_features_of_a_saved_data_set_run_nothing(tmp_path, canary, capsys):
  folder = tmp_path / "saved"
  datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}] * 4).save_to_disk(folder)
  info = json.loads((folder / "dataset_info.json").read_text())
  info["features"]["prompt"] = {"_type": "os.system", "dtype": f"touch {canary}"}
  info["builder_name"] = "__import__('os')"
  (folder / "dataset_info.json").write_text(json.dumps(info))
  refused(capsys, "data", f"--config.data.source={folder}", "--workdir=out")


def test_an_objects_attributes_are_no_columns_of_a_prompt(tmp_path, canary, capsys):
  (tmp_path / "notes.csv").write_text("note,diagnosis\n" + "x,a\ny,b\n" * 8)
  settings = {"task": "text_classification", "define.labels": "diagnosis", "data.source": "notes.csv"}
  flags = [f"--config.{key}={value}" for key, value in settings.items()]
  line = refused(capsys, "data", *flags, "--config.define.prompt={note.__class__.__init__}", "--workdir=out")
  assert "no column 'note.__class__.__init__'" in line


def test_a_ledger_and_options_of_a_stranger_are_data(tmp_path, canary, capsys):
  workdir = tmp_path / "study"
  workdir.mkdir()
  (workdir / "looks.jsonl").write_text(f'__import__("os").system("touch {canary}")\n')
  (workdir / "study.json").write_bytes(pickle.dumps(Touch(canary)))
  refused(capsys, "study", f"--workdir={workdir}", "--report_only")


def test_a_template_that_raises_does_not_print_the_message(model, canary, capsys):
  (model / "chat_template.jinja").write_text("{{ raise_exception('refused: ' + messages[0].content) }}")
  (model.parent / "rows.txt").write_text("Mrs Pflaumenbaum\n")
  line = refused(capsys, "generate", f"--model={model}", "--prompts=rows.txt", "--chat")
  assert "Pflaumenbaum" not in line and "--show_examples shows it" in line
