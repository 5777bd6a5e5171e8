"""Data sets of the hub, which stands on disk here, and those that `datasets` has saved."""

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from medjax.config import base_config, with_overrides
from medjax.data import items, sources
from medjax.errors import UserError

FEATURES = datasets.Features({"a": datasets.Value("int64"), "kind": datasets.ClassLabel(names=["benign", "malignant"])})


def table(first, count):
  rows = [{"a": first + i, "kind": (first + i) % 2} for i in range(count)]
  return datasets.Dataset.from_list(rows, FEATURES)


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """A hub that holds `clinic/notes` with the configurations `full` and `odd`; returns what it was asked for."""
  asked = []
  for configuration, splits in [("full", ("train", "validate", "test")), ("odd", ("train_sft", "test_sft"))]:
    (tmp_path / configuration).mkdir()
    for i, split in enumerate(splits):
      table(10 * i, 5).to_parquet(tmp_path / configuration / f"{split}.parquet")
  load = datasets.load_dataset

  def load_dataset(name, configuration, **options):
    asked.append((name, configuration, options.pop("revision"), options["streaming"]))
    if name != "clinic/notes":
      raise datasets.exceptions.DatasetNotFoundError(f"Dataset {name!r} doesn't exist on the Hub")
    folder = tmp_path / (configuration or "full")
    files = {path.stem: str(path) for path in sorted(folder.iterdir())}
    return load("parquet", data_files=files, cache_dir=str(tmp_path / "cache"), **options)

  monkeypatch.setattr(datasets, "load_dataset", load_dataset)
  return asked


def found(source, rows=None):
  return [(record.values["a"], record.split) for record in sources.read_records(source, rows)]


def test_a_hub_id_gives_all_splits_under_the_names_of_medjax(hub):
  records = sources.read_records("hf:clinic/notes")
  assert [(record.split, record.id) for record in records[::5]] == [
    ("test", "test:1"),
    ("train", "train:1"),
    ("validation", "validate:1"),
  ]
  assert records[5].where == "hf:clinic/notes train row 1"
  assert [record.values["kind"] for record in records[5:8]] == ["benign", "malignant", "benign"]
  assert hub == [("clinic/notes", None, None, False)]


def test_a_hub_id_names_configuration_revision_and_split(hub):
  assert found("hf:clinic/notes:odd@refs/pr/1#train_sft") == [(i, "") for i in range(5)]
  assert found("hf:clinic/notes@v2#test[1:3]", {"train": 1, "validation": 1, "test": 1}) == [(21, ""), (22, "")]
  assert hub == [("clinic/notes", "odd", "refs/pr/1", False), ("clinic/notes", None, "v2", False)]
  assert sources.read_records("hf:clinic/notes#test")[0].id == "notes#test:1"


def test_a_hub_data_set_is_streamed_where_the_rows_of_each_split_are_limited(hub):
  limits = {"train": 2, "validation": 1, "test": 9}
  whole = found("hf:clinic/notes")
  assert sorted(found("hf:clinic/notes", limits)) == sorted([*whole[:5], *whole[5:7], whole[10]])
  assert [streamed for *_, streamed in hub] == [False, True]
  config = with_overrides(
    base_config(),
    {
      "data.source": "hf:clinic/notes",
      "data.columns": {"prompt": "kind", "completion": "kind"},
      **{f"data.{split}_rows": count for split, count in limits.items()},
    },
  )
  assert [item.id for item in items.training_items(config)["train"]] == ["train:1", "train:2"]
  assert hub[-1][-1] is True


def test_what_the_hub_cannot_give_is_refused(hub, monkeypatch):
  for source, message in [
    ("hf:clinic/notes:odd", "clinic/notes:odd has a split '(train|test)_sft', which is none of .*; take one .*odd#t"),
    ("hf:clinic/none", "clinic/none: the hub refused it: DatasetNotFoundError: .*; check the name"),
    ("hf:clinic/notes#trian", "the hub refused it: ValueError: .*trian"),
  ]:
    with pytest.raises(UserError, match=message) as error:
      sources.read_records(source)
    assert "\n" not in str(error.value)
  with pytest.raises(UserError, match="data source clinic/notes.csv does not exist"):
    sources.read_records("clinic/notes.csv")
  assert len(hub) == 3


def test_a_mistyped_path_is_never_asked_for_on_the_hub(hub):
  with pytest.raises(UserError, match="smith_jane_mrn4711 does not exist; a data set of the hub is written hf:owner"):
    sources.read_records("runs/smith_jane_mrn4711")
  assert hub == []


def test_an_error_of_a_reader_of_cells_is_not_repeated(monkeypatch):
  def rows():
    yield {"a": 1}
    raise pyarrow.ArrowInvalid("Failed to parse string: 'Jane Roe'")

  broken = datasets.IterableDatasetDict({"train": datasets.IterableDataset.from_generator(rows)})
  monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: broken)
  with pytest.raises(UserError, match="clinic/notes train: no row after row 0 can be read: ArrowInvalid$"):
    sources.read_records("hf:clinic/notes")


def test_data_sets_that_were_saved_to_disk(tmp_path):
  splits = datasets.DatasetDict({"train": table(0, 3), "dev": table(10, 2)})
  splits.save_to_disk(tmp_path / "splits")
  table(0, 3).select([2, 0]).save_to_disk(tmp_path / "one")
  assert found(tmp_path / "splits", {"train": 2}) == [
    (0, "train"),
    (1, "train"),
    (10, "validation"),
    (11, "validation"),
  ]
  assert found(f"{tmp_path / 'splits'}#dev") == [(10, ""), (11, "")]
  (first, _) = sources.read_records(tmp_path / "one")
  assert (first.values, first.split, first.id) == ({"a": 2, "kind": "benign"}, "", "one:1")
  for source, message in [
    (f"{tmp_path / 'splits'}#test", r"splits has no split 'test' \(it has train, dev\)"),
    (f"{tmp_path / 'one'}#test", r"one has no split 'test' \(it has no splits\)"),
  ]:
    with pytest.raises(UserError, match=message):
      sources.read_records(source)
  next((tmp_path / "one").glob("*.arrow")).unlink()
  with pytest.raises(UserError, match="one is no whole data set of save_to_disk: FileNotFoundError"):
    sources.read_records(tmp_path / "one")
