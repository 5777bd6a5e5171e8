"""What a simulated message can be about: the triage that is right for it, and how it is worded."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Concern:
  """One thing to write about.

  Attributes:
    topic: what it is about; concerns of one topic share their words.
    provider: who should answer first.
    urgency: how soon.
    needs: tags of which the patient must have one.
    drivers: what in the text (or in the patient's stated background) decides the urgency; empty where routine.
    texts: templates, see `simulator_draws.expand`.
    tell: whether the label rests on the patient's background, so that the text must state it.
  """

  topic: str
  provider: str
  urgency: str
  needs: frozenset[str]
  drivers: tuple[str, ...]
  texts: tuple[str, ...]
  tell: bool = False


def concern(topic: str, who: str, needs: str, drivers: str, *texts: str) -> Concern:
  """A concern from compact notation.

  Args:
    topic: the topic.
    who: `provider urgency`.
    needs: tags, blank-separated; a `!` in front says that the text must state the patient's background.
    drivers: drivers, separated by `;`.
    *texts: templates.

  Returns:
    The concern.
  """
  provider, urgency = who.split()
  tags = frozenset(needs.lstrip("!").split())
  reasons = tuple(reason.strip() for reason in drivers.split(";") if reason.strip())
  return Concern(topic, provider, urgency, tags, reasons, texts, needs.startswith("!"))
