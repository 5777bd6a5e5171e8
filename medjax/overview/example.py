"""One training item as the model reads it. Clinical text: only for who asks for it."""

import itertools

from medjax import tasks
from medjax.data import chat, items
from medjax.models.pretrained import load_config_and_tokenizer


def rendered(config) -> str:
  """The first training item, decoded from its token ids: the prompt, and what is learned, or is not, behind it."""
  task = tasks.of(config) if config.task else None
  first = items.training_items(config, task)["train"][0]
  described = load_config_and_tokenizer(config.model.path)
  encoder = chat.Encoder(described.tokenizer, described.config.vocab_size)
  decode, lines = described.tokenizer.decode, []
  for group in encoder.segments([first]):
    lines += [f"--- prompt of row {group.id}, {len(group.prompt)} tokens", decode(group.prompt)]
    answers = itertools.count(1)
    for ids, learned in group.runs:
      lines += [f"--- answer {next(answers)}" if learned else "--- not learned", decode(ids)]
  return "\n".join(lines)
