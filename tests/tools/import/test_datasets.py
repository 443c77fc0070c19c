"""Rows from a dataset of the model hub: one file, at a commit, with the licence of the dataset card."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hub import COMMIT, Hub
from import_project import KINDS, ROWS, record, tree

pytestmark = pytest.mark.slow  # git and DVC run as processes


def test_only_the_data_file_is_fetched_with_commit_and_licence(
    project: Path, dataset: Path, hub: Hub, fetch: Callable[..., tuple[int, str]]
) -> None:
    code, output = fetch("lockstep/rows", "--revision", COMMIT)
    assert (code, output.splitlines()) == (
        0,
        [
            "data/raw/train.jsonl: 100 rows of lockstep/rows, licence apache-2.0",
            "next: commit data/train.jsonl.dvc, share the rows with `dvc push`, then `make repro`",
        ],
    )
    assert hub.asked == ["data/train.jsonl"]
    assert record(project, "train.jsonl")["meta"] == {
        "source": "lockstep/rows",
        "file": "data/train.jsonl",
        "revision": COMMIT,
        "licence": "apache-2.0",
        "rows": 100,
    }
    assert (project / "data/raw/train.jsonl").read_bytes() == ROWS
    assert sorted(tree(project)) == ["raw/.gitignore", "raw/own.jsonl", "raw/train.jsonl", "train.jsonl.dvc"]
    assert fetch("lockstep/rows", "--revision", COMMIT) == (0, "data/raw/train.jsonl: already imported\n")


def test_one_file_of_several_must_be_named(
    project: Path, dataset: Path, hub: Hub, fetch: Callable[..., tuple[int, str]]
) -> None:
    (dataset / "data/test.parquet").write_bytes(b"never read")
    hub.licences["lockstep/rows"] = ["mit", "cc-by-4.0"]
    at = ("lockstep/rows", "--revision", COMMIT)
    several = "choose with --file among data/test.parquet, data/train.jsonl"
    assert fetch(*at) == (1, f"Error: lockstep/rows: 2 data files; {several}")
    assert fetch(*at, "--file", "rows.py") == (1, f"Error: lockstep/rows: no data file rows.py; {several}")
    code, output = fetch(*at, "--file", "data/train.jsonl", "--name", "rows.jsonl", "--limit", "5", "--seed", "1")
    assert (code, output.splitlines()[0]) == (
        0,
        "data/raw/rows.jsonl: 5 rows of lockstep/rows, licence mit, cc-by-4.0",
    )
    assert hub.asked == ["data/train.jsonl"]
    assert record(project, "rows.jsonl")["meta"] == {
        "source": "lockstep/rows",
        "file": "data/train.jsonl",
        "revision": COMMIT,
        "licence": "mit, cc-by-4.0",
        "rows": 5,
        "limit": 5,
        "seed": 1,
    }
    for number in range(30):
        (dataset / f"part-{number:02}.csv").write_bytes(b"")
    code, message = fetch(*at)
    assert message.startswith("Error: lockstep/rows: 32 data files; choose with --file among data/test.parquet, ")
    assert message.endswith(", part-17.csv and 12 more")


def test_a_dataset_without_data_files_is_refused(
    dataset: Path, hub: Hub, fetch: Callable[..., tuple[int, str]]
) -> None:
    (dataset / "data/train.jsonl").unlink()
    assert fetch("lockstep/rows", "--revision", COMMIT) == (
        1,
        f"Error: lockstep/rows: no data file ({KINDS}); choose another dataset",
    )


@pytest.mark.parametrize(
    ("name", "status"), [("lockstep/absent", 404), ("lockstep/gated", 403), ("lockstep/rows", 0)]
)
def test_a_hub_that_refuses_is_named_with_what_to_check(
    project: Path, dataset: Path, fetch: Callable[..., tuple[int, str]], name: str, status: int
) -> None:
    before = tree(project)
    at = (name, "--revision", COMMIT)
    code, message = fetch(*at) if status else fetch(*at, address="http://127.0.0.1:9")
    assert code == 1
    assert message.startswith(f"Error: {name} at {COMMIT}: {status or '[Errno 111] Connection refused'}")
    assert message.endswith("; check the name and hash, the network, and for gated datasets HF_TOKEN")
    assert tree(project) == before
