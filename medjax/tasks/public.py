"""Public data sets by name: where they come from, on what terms, and what is not to be trained on."""

import dataclasses

from medjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class PublicSet:
  """A public data set.

  Attributes:
    title: its name in full.
    licence: short name of the licence or terms.
    terms: what a user should know before use.
    cite: authors, venue, year.
    home: where it is described.
  """

  title: str
  licence: str
  terms: str
  cite: str
  home: str


_ATTRIBUTION = "use with attribution; de-identified or written for the purpose, yet of clinical form: handle it as such"
PUBLIC: dict[str, PublicSet] = {
  "medqa": PublicSet(
    "MedQA (USMLE)",
    "MIT (of the authors' repository)",
    "questions of examinations: rights in single questions may lie elsewhere",
    "Jin et al., Applied Sciences 2021",
    "https://github.com/jind11/MedQA",
  ),
  "medmcqa": PublicSet(
    "MedMCQA",
    "Apache-2.0 (as the hub has it), MIT (the authors' repository)",
    "the labels of its test set are not public: the validation set is what is reported on",
    "Pal et al., CHIL 2022",
    "https://medmcqa.github.io",
  ),
  "pubmedqa": PublicSet(
    "PubMedQA, expert-labelled",
    "MIT",
    "its published test set is 500 of these 1,000 rows, by the list of ids in the authors' repository",
    "Jin et al., EMNLP 2019",
    "https://pubmedqa.github.io",
  ),
  "mts_dialog": PublicSet(
    "MTS-Dialog", "CC BY 4.0", _ATTRIBUTION, "Ben Abacha et al., EACL 2023", "https://github.com/abachaa/MTS-Dialog"
  ),
  "aci_bench": PublicSet(
    "ACI-Bench", "CC BY 4.0", _ATTRIBUTION, "Yim et al., Scientific Data 2023", "https://github.com/wyim/aci-bench"
  ),
  "ddxplus": PublicSet(
    "DDXPlus",
    "CC BY 4.0",
    "synthetic patients, made by rules from a proprietary knowledge base: no evidence about real ones",
    "Fansi Tchango et al., NeurIPS Datasets and Benchmarks 2022",
    "https://github.com/mila-iqia/ddxplus",
  ),
  "ktas": PublicSet(
    "Triage at two emergency departments (KTAS)",
    "CC BY 4.0",
    "de-identified real patients: handle it as such",
    "Moon et al., PLOS ONE 2019",
    "https://doi.org/10.1371/journal.pone.0216972",
  ),
  "uci_thyroid": PublicSet(
    "Thyroid disease, Garavan Institute",
    "CC BY 4.0",
    "de-identified real patients, 1984 to 1987",
    "Quinlan, UCI Machine Learning Repository 1987",
    "https://archive.ics.uci.edu/dataset/102/thyroid+disease",
  ),
}


def get(name: str) -> PublicSet:
  """The set of that name; UserError with the known ones where there is none."""
  if name not in PUBLIC:
    raise UserError(f"config.define.public is {name!r}; known: {', '.join(PUBLIC)}")
  return PUBLIC[name]


def notices(name: str, public_test: bool) -> list[str]:
  """What is to be said before rows of a public set are trained on."""
  of = get(name)
  said = [f"{of.title}: {of.licence}; {of.terms}. Cite {of.cite} ({of.home})."]
  if public_test:
    said.append(
      f"these rows are of the public test set of {of.title}: a model that is trained on them must not be compared with "
      "published results on it"
    )
  return said
