"""`medjax generate`: completions for prompts from a file or stdin."""

import json
import pathlib
import sys
from typing import Any

from absl import flags

from medjax.cli.verb import Arguments, Verb, define_stop, stop_strings
from medjax.config_checks import CHOICES
from medjax.errors import UserError


def _define(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "model", "embedded:smollm2-135m", "Embedded model, directory, hub id hf:owner/name or .gguf.", flag_values=values
  )
  flags.DEFINE_string(
    "prompts",
    None,
    "File of prompts, - for stdin: a .jsonl object with `prompt` or `messages` a line, or else a prompt a line.",
    required=True,
    flag_values=values,
  )
  flags.DEFINE_integer("max_new_tokens", 128, "Longest completion.", lower_bound=1, flag_values=values)
  flags.DEFINE_float("temperature", 0.0, "0 is greedy.", lower_bound=0.0, flag_values=values)
  flags.DEFINE_float(
    "top_p",
    1.0,
    "Sample from the likeliest tokens up to this mass.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=values,
  )
  flags.DEFINE_integer("seed", 0, "Of the sampling.", lower_bound=0, flag_values=values)
  define_stop(values)
  flags.DEFINE_boolean("chat", False, "Put text prompts through the chat template.", flag_values=values)
  flags.DEFINE_enum(
    "dtype",
    "auto",
    CHOICES["model.dtype"],
    "Of the computation; auto: float32 on a CPU, else bfloat16.",
    flag_values=values,
  )


def read_prompts(text: str, where: str) -> list[tuple[Any, Any]]:
  """Prompts of a text: `(id or None, text or messages)`, one for each line that is not blank.

  Raises:
    UserError: no prompt, or a line that starts as JSON and is not a prompt; names the line.
  """
  prompts = []
  for number, line in enumerate(text.split("\n"), 1):
    line = line.rstrip("\r")
    if not line.strip():
      continue
    row = _object(line, f"{where} line {number}")
    prompt = row.get("messages", row.get("prompt"))
    if isinstance(prompt, list):
      fits = all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in prompt) and prompt
    else:
      fits = isinstance(prompt, str) and prompt
    if not fits:
      raise UserError(f'{where} line {number}: needs "prompt": TEXT or "messages": [{{"role", "content"}}, ...]')
    prompts.append((row.get("id"), prompt))
  if not prompts:
    raise UserError(f"{where} holds no prompts")
  return prompts


def _object(line: str, where: str) -> dict[str, Any]:
  if not line.lstrip().startswith("{"):
    return {"prompt": line}
  try:
    return json.loads(line)
  except json.JSONDecodeError as error:
    raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None


def _run(arguments: Arguments) -> None:
  from medjax.data.text_files import read_text

  values = arguments.flags
  if values.top_p <= 0:
    raise UserError("--top_p is 0: it must be more than 0")
  stop = stop_strings(values)
  where = "stdin" if values.prompts == "-" else values.prompts
  if where != "stdin" and not pathlib.Path(where).is_file():
    raise UserError(f"--prompts is {where!r}: no such file; give a file, or - for stdin")
  prompts = read_prompts(sys.stdin.read() if where == "stdin" else read_text(where), where)

  import medjax

  model = medjax.load(values.model, dtype=values.dtype)
  completions = model.generate(
    [prompt for _, prompt in prompts],
    values.max_new_tokens,
    temperature=values.temperature,
    top_p=values.top_p,
    seed=values.seed,
    chat=values.chat,
    stop=stop,
  )
  for index, ((id_, _), completion) in enumerate(zip(prompts, completions, strict=True)):
    named = {} if id_ is None else {"id": id_}
    print(json.dumps({"prompt_index": index, **named, "completion": completion}, ensure_ascii=False))


VERB = Verb(
  "completions for prompts, as JSON lines on stdout",
  "echo 'List three causes of fever.' | medjax generate --prompts=- --chat",
  _define,
  _run,
  compiles=True,
)
