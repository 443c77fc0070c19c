"""Import: rows are imported completely or not at all, and a record says where they come from."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from import_project import ENVIRONMENT, ROOT, ROWS, command, record, run, sha256, tree

from stages.preprocess.sources import data_files

pytestmark = pytest.mark.slow  # git and DVC run as processes


def test_a_file_is_copied_tracked_and_recorded(project: Path, source: Path, succeed: Callable[..., str]) -> None:
    assert succeed(command, source, "--licence", "CC BY 4.0") == (
        "data/raw/rows.jsonl: 100 rows of rows.jsonl, licence CC BY 4.0\n"
        "next: commit data/rows.jsonl.dvc, share the rows with `dvc push`, then `make repro`\n"
    )
    out = {"path": "raw/rows.jsonl", "size": len(ROWS), "hash": "md5", "md5": hashlib.md5(ROWS).hexdigest()}
    assert record(project, "rows.jsonl") == {
        "desc": "100 rows of rows.jsonl",
        "meta": {"source": "rows.jsonl", "revision": sha256(ROWS), "licence": "CC BY 4.0", "rows": 100},
        "outs": [out],
    }
    assert sorted(tree(project)) == ["raw/.gitignore", "raw/own.jsonl", "raw/rows.jsonl", "rows.jsonl.dvc"]
    assert (project / "data/raw/rows.jsonl").read_bytes() == ROWS
    assert run(project, "git status --porcelain") == "A  data/raw/.gitignore\nA  data/rows.jsonl.dvc\n"
    assert [path.name for path in data_files(project / "data/raw")] == ["own.jsonl", "rows.jsonl"]


def test_without_a_licence_it_says_what_to_do_and_remembers_it_afterwards(
    project: Path, source: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    assert succeed(command, source).splitlines()[:2] == [
        "data/raw/rows.jsonl: 100 rows of rows.jsonl, licence unknown",
        "find out the licence, and record it with --licence and --force",
    ]
    assert fail(command, source, "--licence", "mit").startswith("data/raw/rows.jsonl: exists, with licence unknown; ")
    succeed(command, source, "--licence", "mit", "--force")
    before = tree(project)
    assert succeed(command, source) == "data/raw/rows.jsonl: already imported\n"
    assert tree(project) == before
    succeed(command, source, "--force")
    assert tree(project) == before


def test_a_changed_source_or_file_needs_force(
    project: Path, source: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    succeed(command, source)
    before = tree(project)
    source.write_bytes(ROWS + ROWS)
    assert "its source has changed" in fail(command, source)
    assert tree(project) == before
    source.write_bytes(ROWS)
    target = project / "data/raw/rows.jsonl"
    target.unlink()
    target.write_bytes(b"{}\n")
    assert "it has changed since the import; --force " in fail(command, source)
    succeed(command, source, "--force")
    assert tree(project) == before
    target.unlink()  # as in a clone before `dvc pull`
    assert succeed(command, source).startswith("data/raw/rows.jsonl: 100 rows of rows.jsonl")
    assert tree(project) == before


def test_a_file_from_elsewhere_is_replaced_only_by_force(
    project: Path, source: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    (project / "data/raw/rows.jsonl").write_bytes(ROWS)
    before = tree(project)
    assert "exists, with no record of its source; " in fail(command, source)
    assert tree(project) == before
    succeed(command, source, "--force")
    other = source.with_name("other.jsonl")
    other.write_bytes(ROWS + ROWS)
    assert "exists, with source rows.jsonl; " in fail(command, other, "--name", "rows.jsonl")
    assert "exists, with limit not set; " in fail(command, source, "--name", "rows.jsonl", "--limit", "5")
    succeed(command, other, "--name", "rows.jsonl", "--force")
    assert record(project, "rows.jsonl")["meta"] == {
        "source": "other.jsonl",
        "revision": sha256(ROWS + ROWS),
        "licence": "unknown",
        "rows": 200,
    }
    assert (project / "data/raw/rows.jsonl").read_bytes() == ROWS + ROWS


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "rows.jsonl: no rows; "),
        (ROWS + b"{not json}\n", "rows.jsonl:101: "),
        (ROWS.decode().encode("utf-16")[:-1], "rows.jsonl: not utf-16"),
    ],
)
def test_a_file_that_is_not_readable_is_not_imported(
    project: Path,
    source: Path,
    succeed: Callable[..., str],
    fail: Callable[..., str],
    existing: bool,
    content: bytes,
    message: str,
) -> None:
    if existing:
        succeed(command, source)
    before = tree(project)
    source.write_bytes(content)
    assert fail(command, source, *["--force"] * existing).startswith(message)
    assert tree(project) == before
    assert not list((project / "data" / "raw").glob(".*.building"))


def test_rows_that_are_not_readable_are_counted(project: Path, source: Path, succeed: Callable[..., str]) -> None:
    source = source.with_suffix(".csv")
    source.write_bytes(b"question,answer\n1,2\n3\n4,5\n")
    assert succeed(command, source).splitlines()[:2] == [
        "data/raw/rows.csv: 3 rows of rows.csv, licence unknown",
        "1 rows are not readable; preprocess drops and counts them",
    ]
    assert succeed(command, source, "--limit", "2").splitlines()[:2] == [
        "data/raw/rows-2.jsonl: 2 rows of rows.csv, licence unknown",
        "1 rows are not readable; the sample leaves them out",
    ]
    assert (project / "data/raw/rows-2.jsonl").read_bytes() == (
        b'{"question": "1", "answer": "2"}\n{"question": "4", "answer": "5"}\n'
    )


def test_make_passes_its_variables_on_and_no_name_of_the_machine(project: Path, source: Path) -> None:
    shutil.copy(ROOT / "Makefile", project)
    odd = source.rename(source.with_name('it\'s $HOME `id` "rows".jsonl'))
    environment = ENVIRONMENT | {"NAME": "machine", "LIMIT": "3"}
    made = f"{Path(sys.prefix)}/.pipeline"
    make = ["make", "--no-print-directory", "--old-file", made, f"VENV={sys.prefix}", "import"]
    given = [f"SOURCE={odd}", "NAME=my rows.jsonl", "LICENCE=CC BY 4.0", "LIMIT=5", "SEED=1"]
    done = subprocess.run([*make, *given], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"data/raw/my rows.jsonl: 5 rows of {odd.name}, licence CC BY 4.0"
    assert record(project, "my rows.jsonl")["meta"]["seed"] == 1
    done = subprocess.run([*make, given[0], "FORCE=1"], cwd=project, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == f"data/raw/{odd.name}: 100 rows of {odd.name}, licence unknown"
    done = subprocess.run(make, cwd=project, env=environment, capture_output=True, text=True)
    assert "Error: SOURCE: missing; " in done.stderr
