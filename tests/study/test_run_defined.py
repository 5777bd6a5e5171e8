"""A study of a table of one's own: one config, labels found in the data, thresholds and pieces of long texts."""

import json

import tiny

from medjax import config as schema
from medjax import tasks
from medjax.study.run import study


def test_a_study_runs_on_a_table_by_its_config_alone(tmp_path):
  tiny.write_model(tmp_path / "model")
  with open(tmp_path / "notes.csv", "w") as file:
    file.write("note,diagnosis,patient\n")
    file.writelines(f"note {i} {'word ' * (i % 9)},{['asthma', 'angina'][i % 2]},{i // 2}\n" for i in range(120))
  changes = {"task": "text_classification", "data.source": str(tmp_path / "notes.csv"), "data.split_by": "patient"}
  changes |= {"define.prompt": "{note}", "define.labels": "diagnosis", "define.decide": "thresholds"}
  changes |= {"define.window_words": 5, "define.name": "mine", "model.path": str(tmp_path / "model")}
  changes |= {"train.steps": 2, "train.batch_size": 2, "train.row_length": 256, "optimizer.warmup_steps": 0}
  config = tasks.settled(schema.with_overrides(schema.base_config(), changes))
  schema.validate(config)
  found = study(config, tmp_path / "study")
  assert {row["method"] for row in found["results"] if not row["baseline"]} == {"base", "sft", "dpo"}
  assert {row["target"] for row in found["results"]} == {"diagnosis"}
  assert [row["verdict"] for row in found["recommendations"]]
  assert "asthma" in (tmp_path / "study" / "report.html").read_text()
  saved = json.loads((tmp_path / "study" / "config.json").read_text())
  assert saved["define"]["labels"] == {"diagnosis": ["angina", "asthma"]}
