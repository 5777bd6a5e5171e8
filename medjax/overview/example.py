"""One training item as the model reads it. Clinical text: only for who asks for it."""

from medjax import tasks
from medjax.data import chat, items
from medjax.models.pretrained import load_config_and_tokenizer


def rendered(config) -> str:
  """The first training item, decoded from its token ids: the prompt, and each answer with what is learned marked."""
  task = tasks.of(config) if config.task else None
  first = items.training_items(config, task)["train"][0]
  described = load_config_and_tokenizer(config.model.path)
  encoder = chat.Encoder(described.tokenizer, described.config.vocab_size)
  (group,) = encoder.segments([first])
  decode = described.tokenizer.decode
  answers = [f"--- answer {number}\n{decode(ids)}" for number, ids in enumerate(group.completions, start=1)]
  return "\n".join([f"--- prompt of row {group.id}, {len(group.prompt)} tokens", decode(group.prompt), *answers])
