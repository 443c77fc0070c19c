"""Files: outputs that are written completely or not at all, JSON with one format, content hashes."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

# What git writes into a file where a merge needs a human.
CONFLICT = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
# The files of a tokenizer and its chat template, by their names on the Hugging Face Hub.
CHAT_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it replaces `path`, on any failure it is deleted.

    Every file in it becomes readable for group and world: safetensors files are written with mode 0600, which other
    users of a shared cache or a container cannot read.

    Raises:
        click.ClickException: `path` cannot be written.
    """
    building = path.with_name(f".{path.name}.building")
    with _named_errors(path):
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
    try:
        with _named_errors(path):
            yield building
            for file in (building, *building.rglob("*")):
                file.chmod(0o755 if file.is_dir() else 0o644)
            if path.exists():
                shutil.rmtree(path)
            building.rename(path)
    except click.ClickException as error:
        raise click.ClickException(error.message.replace(str(building), str(path))) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def write_texts(texts: dict[Path, str]) -> None:
    """Write several text files: all of them, or none if one cannot be written.

    Raises:
        click.ClickException: a file cannot be written.
    """
    written = []
    try:
        for path, text in texts.items():
            with _named_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                building = path.with_name(f".{path.name}.building")
                written.append((building, path))
                building.write_text(text, encoding="utf-8", newline="\n")
                building.chmod(0o644)
        for building, path in written:
            with _named_errors(path):
                building.replace(path)
    finally:
        for building, _ in written:
            with suppress(NotADirectoryError):
                building.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, as `dump_json` formats it."""
    write_texts({path: dump_json(value)})


def dump_json(value: Any) -> str:
    """Format `value` as JSON: sorted keys, two spaces of indent, newline at the end. Same value, same bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def dump_rows(rows: list[dict[str, Any]]) -> str:
    """Format `rows` as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON object that an earlier stage wrote.

    Args:
        path: the file.
        keys: what it must hold.

    Raises:
        click.ClickException: the file is missing or lacks a key, or see `parse_json`.
    """
    found = parse_json(read_bytes(path, "dvc repro"), str(path))
    if missing := [key for key in keys if key not in found]:
        raise click.ClickException(f"{path}: no `{missing[0]}`; run `dvc repro`")
    return found


def parse_json(content: bytes, name: str, advice: str = "`dvc repro` writes it again") -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        content: the file.
        name: its name, for messages.
        advice: what to do about a damaged file, for messages.

    Raises:
        click.ClickException: no JSON (NaN and infinity are none), or no object; or see `decode`.
    """
    try:
        found = json.loads(decode(content, name), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"{name}:{error.lineno}" if b"\n" in content else name
        problem = f"{place}: not JSON: {error.msg}" if content.strip() else f"{name}: empty"
        raise click.ClickException(f"{problem}; {advice}") from None
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise click.ClickException(f"{name}: not JSON: {problem}; {advice}") from None
    if not isinstance(found, dict):
        raise click.ClickException(f"{name}: not a JSON object; {advice}")
    return found


def decode(content: bytes, name: str) -> str:
    """Decode the text of a file.

    Raises:
        click.ClickException: no UTF-8, or git's conflict markers are in it.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise click.ClickException(f"{name}: not UTF-8; save it as UTF-8") from None
    if marker := CONFLICT.search(text):
        line = text.count("\n", 0, marker.start()) + 1
        raise click.ClickException(
            f"{name}:{line}: git's conflict markers: a merge is half done; choose a side, then run `make repro`"
        )
    return text


def read_bytes(path: Path, command: str) -> bytes:
    """Read a file.

    Raises:
        click.ClickException: it is missing, with the command that makes it, or cannot be read.
    """
    require(path, command)
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.ClickException(f"{path}: cannot be read ({error.strerror}); check what it is") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines that an earlier stage wrote.

    Raises:
        click.ClickException: the file is missing or empty, or see `parse_json`.
    """
    # Split as bytes: a text may hold U+2028, which ends a line in Python and does not in JSON.
    lines = read_bytes(path, "dvc repro").split(b"\n")
    rows = [parse_json(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line]
    if not rows:
        raise click.ClickException(f"{path}: no rows; more data or another preprocess.val_fraction is needed")
    return rows


def require(path: Path, command: str) -> None:
    """Fail when `path` does not exist, with the command that makes it."""
    if not path.exists():
        raise click.ClickException(f"{path}: no such file or folder; run `{command}` first")


def sha256(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below `folder`, by relative POSIX path, sorted."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def digest(folder: Path) -> str:
    """Return the hash of a folder: the sha256 of the list that `sha256sum` prints for its files, sorted."""
    lines = [f"{value}  {name}\n" for name, value in hashes(folder).items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def size_bytes(folder: Path) -> int:
    """Return the total size of the weight files (safetensors) in `folder`."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (None, errno.ENOENT):  # an input that is missing, not an output
            raise
        raise click.ClickException(
            f"{path}: cannot be written ({error.strerror}); check the folder's owner and free space"
        ) from None
