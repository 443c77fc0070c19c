"""Files: outputs are written completely or not at all, are readable by everybody, and have one format."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from stages.awq import __main__ as awq
from stages.base import __main__ as base
from stages.common import files
from stages.eval import __main__ as eval
from stages.merge import __main__ as merge
from stages.preprocess import __main__ as preprocess
from stages.train import __main__ as train


@pytest.fixture
def strict_umask() -> Iterator[None]:
    """Let new files be readable by their owner only."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """Return the permissions of a folder and of everything in it."""
    return {
        path.relative_to(folder).as_posix(): oct(path.stat().st_mode & 0o777) for path in (folder, *folder.rglob("*"))
    }


def test_a_fresh_folder_replaces_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "models" / "base"
    for content in ("old", "new"):
        with files.fresh_folder(out) as folder:
            (folder / content).write_text(content)
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in out.parent.iterdir()] == ["base"]


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with files.fresh_folder(out) as folder:
        (folder / "file").write_text("old")
    with pytest.raises(KeyError), files.fresh_folder(out) as folder:
        (folder / "file").write_text("new")
        raise KeyError
    assert (out / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_failure_without_an_old_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), files.fresh_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("new")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_files_of_an_interrupted_run_are_deleted(tmp_path: Path) -> None:
    (tmp_path / ".out.building").mkdir()
    (tmp_path / ".out.building" / "half").write_text("half")
    with files.fresh_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_a_missing_input_is_not_reported_as_an_unwritable_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.fresh_folder(tmp_path / "out"):
        (tmp_path / "input").read_text()


def test_errors_name_the_final_folder(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException) as raised, files.fresh_folder(tmp_path / "out") as folder:
        raise click.ClickException(f"{folder / 'config.json'}: no such file")
    assert raised.value.message == f"{tmp_path}/out/config.json: no such file"


@pytest.mark.usefixtures("strict_umask")
def test_outs_are_readable_by_group_and_world(tmp_path: Path) -> None:
    with files.fresh_folder(tmp_path / "out") as folder:
        (folder / "below").mkdir()
        (folder / "below" / "file").write_text("text")
    files.write_texts({tmp_path / "text": "text"})
    assert modes(tmp_path / "out") == {".": "0o755", "below": "0o755", "below/file": "0o644"}
    assert oct((tmp_path / "text").stat().st_mode & 0o777) == "0o644"


def test_several_texts_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("old")
    (tmp_path / "blocked").write_text("a file, no folder")
    with pytest.raises(click.ClickException):
        files.write_texts({tmp_path / "first": "new", tmp_path / "blocked" / "second": "new"})
    assert (tmp_path / "first").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocked", "first"]


def test_a_folder_with_the_name_of_one_text_stops_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with pytest.raises(click.ClickException) as raised:
        files.write_texts({tmp_path / "first": "new", tmp_path / "second": "new"})
    assert raised.value.message.startswith(f"{tmp_path}/second: cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["second"]


def test_a_text_that_utf_8_cannot_encode_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        files.write_texts({tmp_path / "first": "new", tmp_path / "second": "\ud800"})
    assert list(tmp_path.iterdir()) == []


def test_json_has_one_format(tmp_path: Path) -> None:
    files.write_json(tmp_path / "file", {"b": 1.5, "a": ["é"]})
    assert (tmp_path / "file").read_bytes() == '{\n  "a": [\n    "é"\n  ],\n  "b": 1.5\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.dump_json(float("nan"))


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        {"text": f"before{mark}after"} for mark in ("\n", "\r\n", "\r", "\x0b", "\x1c", "\x85", "\u2028", "😀", '"')
    ]
    files.write_texts({tmp_path / "rows.jsonl": files.dump_rows(rows)})
    assert files.read_rows(tmp_path / "rows.jsonl") == rows
    with (tmp_path / "rows.jsonl").open("rb") as file:
        assert [json.loads(line) for line in file] == rows


DAMAGED = {
    b"": "a.json: empty; `dvc repro` writes it again",
    b"  \n": "a.json: empty; `dvc repro` writes it again",
    b'{"a": 1': "a.json: not JSON: Expecting ',' delimiter; `dvc repro` writes it again",
    b'{\n<<<<<<< HEAD\n"a": 1\n=======\n"a": 2\n>>>>>>> b\n}': (
        "a.json:2: git's conflict markers: a merge is half done; choose a side, then run `make repro`"
    ),
    b'{"a": NaN}': "a.json: not JSON: NaN is no number; `dvc repro` writes it again",
    b'{"a": -Infinity}': "a.json: not JSON: -Infinity is no number; `dvc repro` writes it again",
    b"[1]": "a.json: not a JSON object; `dvc repro` writes it again",
    b"3": "a.json: not a JSON object; `dvc repro` writes it again",
    b'{"a": "\xff"}': "a.json: not UTF-8; save it as UTF-8",
    b"[" * 100_000: "a.json: not JSON: nested too deeply; `dvc repro` writes it again",
    b'{"b": 1}': "a.json: no `a`; run `dvc repro`",
}


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(click.ClickException) as raised:
        files.read_json(path, "a")
    assert raised.value.message.removeprefix(f"{tmp_path}/") == DAMAGED[content]


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"cannot be read \(Is a directory\)"):
        files.read_json(tmp_path)


def test_a_damaged_row_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "\u2028"}\n{"a": \n', encoding="utf-8")
    with pytest.raises(click.ClickException, match=r"rows.jsonl:2: not JSON: "):
        files.read_rows(path)


@pytest.mark.slow
def test_the_hash_of_a_folder_is_that_of_its_sha256sum_list(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one").write_bytes(b"1")
    (tmp_path / "a.bin").write_bytes(b"\0" * 100_000)
    listed = subprocess.run(["sha256sum", "a.bin", "b/one"], cwd=tmp_path, capture_output=True, check=True).stdout
    assert files.digest(tmp_path) == hashlib.sha256(listed).hexdigest()
    assert [f"{value}  {name}" for name, value in files.hashes(tmp_path).items()] == listed.decode().splitlines()


def test_only_weight_files_count_as_size(tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(b"12345")
    (tmp_path / "model-2.safetensors").write_bytes(b"123")
    (tmp_path / "config.json").write_bytes(b"{}")
    assert files.size_bytes(tmp_path) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("main", "arguments", "path"),
    [
        (base.main, "--out blocked/out", "blocked/out"),
        (preprocess.main, "--out blocked/out", "blocked/out"),
        (preprocess.main, "--out out --outcomes blocked/outcomes.csv", "blocked/outcomes.csv"),
        (train.main, "--out blocked/out --curves curves --metrics scores.json", "blocked/out"),
        (train.main, "--out out --curves blocked/curves --metrics scores.json", "blocked/curves"),
        (merge.main, "--out blocked/out", "blocked/out"),
        (awq.main, "--out blocked/out", "blocked/out"),
        (eval.main, "--model models/base --metrics blocked/scores.json --answers answers", "blocked/scores.json"),
    ],
)
def test_an_unwritable_output_is_an_error_that_names_it(
    params: Callable[..., Path],
    fail: Callable[..., str],
    workspace: Path,
    scored: Path,
    main: click.Command,
    arguments: str,
    path: str,
) -> None:
    folder = params({"eval.rows": 1, "eval.max_new_tokens": 1}).parent
    (folder / "blocked").write_text("a file, no folder")
    for name in ("data", "models", "metrics", "requirements"):
        (folder / name).symlink_to(workspace / name)
    before = files.hashes(workspace)
    assert fail(main, *arguments.split()).startswith(f"{path}: cannot be written (")
    assert files.hashes(workspace) == before
    assert {path.name for path in folder.iterdir()} - {"out", ".scratch", "curves"} == {
        *("blocked", "data", "metrics", "models", "params.yaml", "requirements")
    }
    assert not list((folder / "out").glob("*"))
