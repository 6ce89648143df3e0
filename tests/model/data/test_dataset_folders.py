import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.config.data import HubConfig
from model.data import hub_dataset
from model.data.hub_requests import HubUnreachableError
from model.errors import CorpusError


def write(path, content):
    path.write_text(content)
    return path


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def read_hub(tmp_path):
    return lambda hub: hub_dataset.read_hub(hub, cache=tmp_path / "cache")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_folder_of_data_files_loads_as_a_dataset(read_hub, tmp_path, kind):
    folder = tmp_path / "clone"
    folder.mkdir()
    if kind == "csv":
        write(folder / "train.csv", "id,title\n1,first\n2,\n3,third\n")
    else:
        parquet(folder / "train.parquet", id=[1, 2, 3], title=["first", None, "third"])
    documents, source = read_hub(HubConfig(id=str(folder)))
    assert documents == ["first", "", "third"]
    assert source == f"folder {folder}"
    with pytest.raises(CorpusError, match=r"data\.hub\.column must be .* given 'text', allowed: title$"):
        read_hub(HubConfig(id=str(folder), column="text"))
    with pytest.raises(
        CorpusError, match=r"data\.hub\.split: .* has no split 'test', allowed: train$"
    ) as caught:
        read_hub(HubConfig(id=str(folder), split="test"))
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, HubUnreachableError)


@pytest.fixture
def two_subsets(tmp_path):
    """A local clone of a repository with two datasets, the second one in three files."""
    files = {
        "a/train.parquet": [f"a{i}" for i in range(30)],
        "b/train-0.parquet": [None] * 20,
        "b/train-1.parquet": [f"b{i}" for i in range(20)],
        "b/train-2.parquet": ["last"],
    }
    for name, texts in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        parquet(tmp_path / name, id=list(range(len(texts))), text=pa.array(texts, pa.string()))
    sections = "".join(f"- config_name: {name}\n  data_files: {name[-1]}/*\n" for name in ("set-a", "set-b"))
    write(tmp_path / "README.md", f"---\nconfigs:\n{sections}---\n")
    return tmp_path


def test_one_of_several_datasets_is_taken_by_name(read_hub, two_subsets):
    hub = HubConfig(id=str(two_subsets), subset="set-a", column="text")
    documents, source = read_hub(hub)
    assert documents == [f"a{i}" for i in range(30)]
    assert source == f"folder {two_subsets} (set-a)"
    assert read_hub(hub.model_copy(update={"subset": "set-b"}))[0][20:] == [
        *(f"b{i}" for i in range(20)),
        "last",
    ]


@pytest.mark.parametrize("first_rows", [None, 10])
@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        (None, r"Config name is missing.*'set-a', 'set-b'"),
        ("set-c", r"\(set-c\).*Available.*'set-a', 'set-b'"),
    ],
)
def test_a_subset_that_is_none_is_refused_with_those_there_are(
    read_hub, two_subsets, subset, expected, first_rows
):
    with pytest.raises(CorpusError, match=expected) as caught:
        read_hub(HubConfig(id=str(two_subsets), subset=subset, column="text", first_rows=first_rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("first_rows", "expected"), [(10, 10), (25, 25), (1000, 41)])
def test_the_first_rows_are_the_beginning_of_the_whole(read_hub, two_subsets, first_rows, expected):
    hub = HubConfig(id=str(two_subsets), subset="set-b", column="text")
    whole, _ = read_hub(hub)
    documents, _ = read_hub(hub.model_copy(update={"first_rows": first_rows}))
    assert documents == whole[:expected]
    with pytest.raises(CorpusError, match=r"data\.hub\.column must be .* given 'id', allowed: text$"):
        read_hub(hub.model_copy(update={"first_rows": first_rows, "column": "id"}))


def test_the_rest_is_not_read(read_hub, two_subsets):
    write(two_subsets / "b/train-2.parquet", "no parquet file")  # the library looks one file ahead
    hub = HubConfig(id=str(two_subsets), subset="set-b", column="text", first_rows=15)
    assert read_hub(hub)[0] == [""] * 15
    with pytest.raises(CorpusError, match=r"split train: cannot be loaded: "):
        read_hub(hub.model_copy(update={"first_rows": 41}))
