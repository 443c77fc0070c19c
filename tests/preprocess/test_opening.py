"""Opening: what is no file, cannot be read or lies elsewhere is one line, also when it changes later."""

import json
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from needs import missing
from preparing import Prepare, lines, rows

from stages.preprocess import __main__ as stage
from stages.preprocess.contamination import load_benchmarks
from stages.preprocess.opening import open_file
from stages.preprocess.readers import read_rows
from stages.preprocess.sources import data_files

ROW = json.dumps({"instruction": "Say hi.", "output": "Hi."}) + "\n"
OUT = "a link out of {folder}, whose file would be missing elsewhere; copy the file here"
MOVE = "delete it, or move it away"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with a file, beside a file that is not in it."""
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a.jsonl").write_text(ROW, encoding="utf-8")
    (tmp_path / "secret.jsonl").write_text(ROW, encoding="utf-8")
    return folder


def refusal(folder: Path) -> str:
    """The message for a folder, without the folder's path."""
    with pytest.raises(click.ClickException) as caught:
        data_files(folder)
    assert caught.value.message.startswith(f"{folder}/")
    assert "\n" not in caught.value.message
    return caught.value.message.removeprefix(f"{folder}/")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def make_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero, which has no end
    except PermissionError:
        missing("root")


@pytest.mark.parametrize(
    ("make", "kind"), [(os.mkfifo, "a pipe"), (make_socket, "a socket"), (make_device, "a device")]
)
def test_what_is_no_file_is_refused(raw: Path, make: Callable[[Path], None], kind: str) -> None:
    """A pipe would wait for ever, and others were passed over without a word."""
    make(raw / "b.jsonl")
    assert refusal(raw) == f"b.jsonl: not a file but {kind}; {MOVE}"
    (raw / "c.jsonl").symlink_to("b.jsonl")
    with pytest.raises(click.ClickException, match=f"not a file but {kind}"):
        next(read_rows(raw / "c.jsonl", folder=raw))


@pytest.mark.parametrize(
    ("links", "name"),
    [
        ({"b.jsonl": "../secret.jsonl"}, "b.jsonl"),
        ({"b.jsonl": "c.jsonl", "c.jsonl": "../secret.jsonl"}, "b.jsonl"),
        ({"b.jsonl": "../raw/../secret.jsonl"}, "b.jsonl"),
        ({"b.jsonl": "/dev/zero"}, "b.jsonl"),
        ({"b.jsonl": "../.dvc/secrets/cache/secret.jsonl"}, "b.jsonl"),
        ({"b.jsonl": "../.dvc/cache/secret.jsonl"}, "b.jsonl"),
    ],
    ids=["a link", "a link to a link", "through the folder", "a device", "a folder named cache", "in the cache"],
)
def test_a_link_out_of_the_folder_is_refused(raw: Path, links: dict[str, str], name: str) -> None:
    for folder in ("secrets/cache", "cache"):
        (raw.parent / ".dvc" / folder).mkdir(parents=True)
        (raw.parent / ".dvc" / folder / "secret.jsonl").write_text(ROW, encoding="utf-8")
    for link, target in links.items():
        (raw / link).symlink_to(target)
    assert refusal(raw) == f"{name}: {OUT.format(folder=raw)}"


@pytest.mark.parametrize("target", ["..", ".", "in", "/"])
def test_a_link_to_a_folder_is_refused(raw: Path, target: str) -> None:
    (raw / "in").mkdir()
    (raw / "b").symlink_to(target)
    assert refusal(raw) == "b: a link to a folder, which is not followed; move the files here"


@pytest.mark.parametrize("target", ["b.jsonl", "nowhere", "a.jsonl/b", "c.jsonl"])
def test_a_link_to_nothing_or_in_a_circle_is_refused(raw: Path, target: str) -> None:
    (raw / "b.jsonl").symlink_to(target)
    (raw / "c.jsonl").symlink_to("b.jsonl")
    assert refusal(raw) == f"b.jsonl: a link to {target}, which does not exist; fix or remove the link"


def test_a_folder_that_is_a_link_itself_is_refused(raw: Path) -> None:
    link = raw.with_name("linked")
    link.symlink_to("raw")
    with pytest.raises(click.ClickException) as caught:
        data_files(link)
    assert caught.value.message == f"{link}: a link to raw, whose files would be missing elsewhere; make it a folder"


def test_links_in_the_folder_and_to_the_cache_are_read(raw: Path) -> None:
    cached = raw.parent / ".dvc" / "cache" / "files" / "md5" / "ab" / ("c" * 30)
    cached.parent.mkdir(parents=True)
    cached.write_text(ROW, encoding="utf-8")
    for name, target in {"b.jsonl": "a.jsonl", "c.jsonl": "b.jsonl", "d.jsonl": str(cached)}.items():
        (raw / name).symlink_to(target)
    assert [len(list(read_rows(path, folder=raw))) for path in data_files(raw)] == [1, 1, 1, 1]


def test_a_link_in_place_of_a_file_that_was_checked_is_refused(raw: Path) -> None:
    (path,) = data_files(raw)
    path.unlink()
    path.symlink_to("../secret.jsonl")
    with pytest.raises(click.ClickException) as caught:
        next(read_rows(path, folder=raw))
    assert caught.value.message == f"{path}: {OUT.format(folder=raw)}"
    assert len(list(read_rows(path))) == 1  # as `make import` reads a file of the user's


def test_a_link_in_place_of_a_folder_that_was_checked_is_refused(raw: Path) -> None:
    inner = raw / "in"
    inner.mkdir()
    (inner / "secret.jsonl").write_text(ROW, encoding="utf-8")
    path = data_files(raw)[1]
    inner.rename(raw.with_name("before"))
    inner.symlink_to("..")
    with pytest.raises(click.ClickException) as caught:
        next(read_rows(path, folder=raw))
    assert caught.value.message == f"{path}: {OUT.format(folder=raw)}"


@pytest.mark.slow
def test_a_link_that_changes_all_the_time_never_leads_out(raw: Path) -> None:
    """Whatever is opened is the file inside, or nothing."""
    (raw.parent / "secret.jsonl").write_text("secret", encoding="utf-8")
    path, ended = raw / "b.jsonl", threading.Event()
    for name, target in {"inside": "a.jsonl", "outside": "../secret.jsonl"}.items():
        (raw.parent / name).symlink_to(target)

    def swap() -> None:
        while not ended.is_set():
            for name in ("inside", "outside"):
                (raw / "new").unlink(missing_ok=True)
                (raw / "new").symlink_to((raw.parent / name).readlink())
                (raw / "new").replace(path)

    thread = threading.Thread(target=swap)
    path.symlink_to("a.jsonl")
    thread.start()
    read = refused = 0
    try:
        while read < 200 or refused < 200:
            try:
                with open_file(path, raw) as file:
                    assert file.read() == ROW.encode()
                read += 1
            except click.ClickException as error:
                assert error.message == f"{path}: {OUT.format(folder=raw)}"
                refused += 1
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("in/b.jsonl", 0o000, "in/b.jsonl: cannot be read; check its owner"),
        ("in", 0o000, "in: cannot be read (Permission denied); check its owner"),
        ("in", 0o444, "in/b.jsonl: cannot be read (Permission denied); check its owner"),
    ],
)
def test_what_this_user_may_not_read_is_named(raw: Path, name: str, mode: int, said: str) -> None:
    """A folder was passed over without a word."""
    if os.geteuid():
        missing("root")
    (raw / "in").mkdir()
    (raw / "in" / "b.jsonl").write_text(ROW, encoding="utf-8")
    for parent in raw.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)  # pytest closes its folders, so that they would be the reason
    (raw / name).chmod(mode)
    next(read_rows(raw / "a.jsonl"))  # imports what reading needs
    os.seteuid(65534)
    try:
        with pytest.raises(click.ClickException) as caught:
            for path in data_files(raw):
                next(read_rows(path, folder=raw))
    finally:
        os.seteuid(0)
    assert caught.value.message == f"{raw}/{said}"


def test_benchmarks_are_opened_in_the_same_way(raw: Path) -> None:
    (raw / "b.jsonl").symlink_to("../secret.jsonl")
    with pytest.raises(click.ClickException, match="a link out of"):
        load_benchmarks(raw, 13)
    (raw / "b.jsonl").unlink()
    assert load_benchmarks(raw, 13).short


@pytest.mark.parametrize("folder", ["raw", "benchmarks"])
def test_the_stage_says_it_in_one_line(
    prepare: Prepare, fail: Callable[..., str], byte_base: Path, folder: str
) -> None:
    place = prepare({"a.jsonl": lines(rows(20))}) / "data" / folder
    place.mkdir(exist_ok=True)
    os.mkfifo(place / "b.jsonl")
    assert fail(stage.main, "--base", byte_base) == f"data/{folder}/b.jsonl: not a file but a pipe; {MOVE}"
