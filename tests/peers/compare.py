"""medjax beside the other libraries, in one go: same model, same rows, alternating runs; prints a table.

Usage: python tests/peers/compare.py --workload=clinical --work=dpo --rounds=2 --output=DIR
       (needs `pip install -e .[reference]`)

Each run is a process of its own; the libraries take turns, `--rounds` times. Steps during which another process used
more than a tenth of a core do not count (Linux), and the best round is shown beside the median. All lines are kept in
DIR/lines.jsonl. `--tunix_python` names the Python of an environment with google-tunix, which is compared too.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
# Work -> the forms of TRL that a user could choose for it.
TRL = {
  "dpo": ("fp32", "default"),
  "dpo_precomputed": ("fp32_precomputed", "default_precomputed"),
  "sft": ("fp32", "default"),
  "text": ("fp32", "default", "padding_free", "packing", "default_padding_free", "default_packing"),
}


def commands(work: str, files: pathlib.Path, batch: int, steps: int, tunix: str | None) -> dict[str, list[str]]:
  """Name of each contender -> its command."""
  python, common = sys.executable, [f"--files={files}", f"--batch={batch}", f"--steps={steps}"]
  if work in ("decode", "score"):
    passes = [python, str(HERE / "run_passes.py"), f"--method={work}", *common]
    return {
      f"{library} {form}": [*passes, f"--library={library}", f"--form={form}"]
      for form in ("float32", "bfloat16")
      for library in ("medjax", "transformers")
    }
  method = work.partition("_")[0]
  ours = [python, "-m", "medjax", "bench", "--json", f"--model={files}/model", f"--data={files}/{method}.jsonl"]
  ours += [f"--method={'dpo' if method == 'dpo' else 'sft'}", f"--batch={batch}", f"--steps={steps}"]
  ours += ["--config.optimizer.learning_rate=1e-5", "--config.train.row_length=2560"]
  ours += [f"--config.preference.reference={'precomputed' if work == 'dpo_precomputed' else 'live'}"]
  found = {"medjax": ours}
  for form in TRL[work]:
    found[f"trl {form}"] = [python, str(HERE / "run_trl.py"), f"--method={method}", f"--form={form}", *common]
  if tunix:
    found["tunix"] = [tunix, str(HERE / "run_tunix.py"), f"--method={method}", *common]
  return found


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--workload", default="clinical")
  parser.add_argument("--work", choices=[*TRL, "decode", "score"], required=True)
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--steps", type=int, default=12)
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--only", default="", help="names of contenders that hold this text")
  parser.add_argument("--tunix_python")
  parser.add_argument("--output", type=pathlib.Path, required=True)
  arguments = parser.parse_args()
  files = arguments.output / arguments.workload
  if not files.exists():
    make = [sys.executable, str(HERE / "workload_files.py"), f"--workload={arguments.workload}", f"--output={files}"]
    subprocess.run(make, check=True)
  chosen = commands(arguments.work, files, arguments.batch, arguments.steps, arguments.tunix_python)
  environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # for all: fresh memory in large pages
  lines: dict[str, list[dict]] = {name: [] for name in chosen if arguments.only in name}
  with open(arguments.output / "lines.jsonl", "a") as kept:
    for _ in range(arguments.rounds):
      for name in lines:
        done = subprocess.run(chosen[name], env=environment, capture_output=True, text=True)
        if done.returncode:
          sys.exit(f"{name}: {done.stderr[-2000:]}")
        line = json.loads(done.stdout.splitlines()[-1])
        line |= {"contender": name, "work": arguments.work, "workload": arguments.workload}
        lines[name].append(line)
        kept.write(json.dumps(line) + "\n")
        kept.flush()
        print(name, json.dumps(line["step_seconds"]), file=sys.stderr)
  print(table(lines))


def table(lines: dict[str, list[dict]]) -> str:
  """Markdown: a row for each contender."""
  rows = ["| | real tokens/s, median of rounds | best round | step s, median | peak memory | undisturbed steps |"]
  rows.append("|---|---|---|---|---|---|")
  for name, found in lines.items():
    rates = [line["tokens_per_second"] for line in found]
    seconds = float(np.median([line["step_seconds"]["median"] for line in found]))
    memory = max(line["peak_bytes"] for line in found) / 1e9
    clean = sum(line["steps_undisturbed"] for line in found), sum(line["steps"] for line in found)
    speed = f"{np.median(rates):.0f} | {max(rates):.0f} | {seconds:.3f}"
    rows.append(f"| {name} | {speed} | {memory:.2f} GB | {clean[0]} of {clean[1]} |")
  return "\n".join(rows)


if __name__ == "__main__":
  main()
