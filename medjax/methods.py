"""The methods that a study compares, and what each makes of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

_OWN_LOSS = {"preference.label_smoothing": 0.0, "preference.gamma": 1.0, "preference.sft_weight": 0.0}


@dataclasses.dataclass(frozen=True)
class Method:
  """A method of a study.

  Attributes:
    stage: `config.method` of its runs; `base` trains nothing.
    after: the method whose chosen run it starts from, where the study has that; else it starts from the model.
    settings: keys of the config that belong to it; a candidate of the grid may change them again.
  """

  stage: str
  after: str = ""
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def trains(self) -> bool:
    """Whether there is anything to train."""
    return self.stage != "base"


# `dpo` and `dpo_from_base` take `preference.*` as the config has it. The others bring their loss, and with it the
# values that its authors use, since a beta that suits one loss does not suit another (papers: docs/architecture.md).
METHODS: Mapping[str, Method] = {
  "base": Method("base"),
  "few_shot": Method("base"),
  "sft": Method("sft"),
  "dpo": Method("dpo", after="sft"),
  "dpo_from_base": Method("dpo"),
  "orpo": Method(
    "dpo",
    settings={**_OWN_LOSS, "preference.loss": "orpo", "preference.beta": 0.1, "preference.reference": "precomputed"},
  ),
  "simpo": Method(
    "dpo",
    after="sft",
    settings={**_OWN_LOSS, "preference.loss": "simpo", "preference.beta": 2.0, "preference.reference": "precomputed"},
  ),
  "kto": Method("dpo", after="sft", settings={**_OWN_LOSS, "preference.loss": "kto", "preference.beta": 0.1}),
}
UNTRAINED = tuple(name for name, method in METHODS.items() if not method.trains)


def settings_of(name: str) -> dict[str, Any]:
  """The keys of the config that a method sets, `method` among them."""
  return {**METHODS[name].settings, "method": METHODS[name].stage}
