"""Preparing: raw files for the preprocess stage, runs on them in tmp_path, and what they wrote."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from stages.common import chat, tokens
from stages.preprocess import __main__ as stage
from stages.preprocess.columns import Reading, match_columns

TEXTS = ("train.jsonl", "val.jsonl", "calibration.jsonl")
PREPARED = (*TEXTS, "train.arrow", "val.arrow", "calibration.arrow", "manifest.parquet")
METRICS = ("preprocess.json", "lengths.csv", "outcomes.csv")

Rows = list[dict[str, Any]]
Contents = dict[str, str | bytes]
Prepare = Callable[..., Path]


def reading(values: Any, name: str, renamed: dict[str, str] | None = None) -> Reading:
    """Return how a row alone is read in a format."""
    return match_columns(values if isinstance(values, dict) else [], renamed or {}, name)


def alpaca(question: str, answer: str = "yes") -> dict[str, str]:
    return {"instruction": question, "input": "", "output": answer}


def rows(count: int, start: int = 0) -> Rows:
    return [alpaca(f"Is {number} a number?") for number in range(start, start + count)]


def talk(*texts: str) -> dict[str, Any]:
    """Return a conversation with the texts, user and assistant in turn."""
    return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]}


def length(*texts: str) -> int:
    """Count the tokens of `talk(*texts)` with `byte_base`: "user:" or "assistant:", the text, and <end>."""
    return sum(len(("user:", "assistant:")[n % 2]) + len(text.encode()) + 1 for n, text in enumerate(texts))


def answered(*answers: dict[str, Any]) -> Rows:
    """Return twenty conversations with the answers, each after a question."""
    return [
        {"messages": [turn for n, one in enumerate(answers) for turn in (USER | {"content": f"{row}.{n}?"}, one)]}
        for row in range(20)
    ]


def lines(values: list[Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


GOOD = lines(rows(20))
USER = {"role": "user", "content": "Say it"}
# For rows of which many differ only in a number.
SIMILAR = {
    "preprocess.near_duplicate_similarity": 1.0,
    "preprocess.val_fraction": 0.4,
    "preprocess.max_dropped_share": 0.1,
}


def read(folder: Path, name: str) -> Rows:
    text = (folder / "data" / "prepared" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def kept(folder: Path) -> Rows:
    return read(folder, "train") + read(folder, "val")


def questions(values: Rows) -> list[str]:
    return [value["messages"][0]["content"] for value in values]


def spoken(folder: Path) -> str:
    return json.dumps(kept(folder), ensure_ascii=False)


def unread(folder: Path, name: str) -> dict[str, int]:
    return counts(folder)["files"][name]["unread"]


def counts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics" / "preprocess.json").read_text(encoding="utf-8"))


def manifest(folder: Path) -> Rows:
    return parquet.read_table(folder / "data" / "prepared" / "manifest.parquet").to_pylist()


def outputs(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file that the stage wrote."""
    files = [folder / "data" / "prepared" / name for name in PREPARED] + [
        folder / "metrics" / name for name in METRICS
    ]
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture
def write_raw(tmp_path: Path, params: Callable[..., Path]) -> Prepare:
    """Write params and raw files into tmp_path: `write_raw({"a.jsonl": "text or bytes"}, {"preprocess.seed": 1})`."""

    def write_raw(contents: Contents, changes: dict[str, Any] | None = None) -> Path:
        params({"preprocess.max_length": 1000} | (changes or {}))
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        (tmp_path / "data" / "raw").mkdir(parents=True)
        for name, content in contents.items():
            data = content if isinstance(content, bytes) else content.encode()
            file = tmp_path / "data" / "raw" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return tmp_path

    return write_raw


@pytest.fixture
def prepare(write_raw: Prepare, succeed: Callable[..., str], byte_base: Path) -> Prepare:
    """Write raw files, run the stage on them and return the folder."""

    def prepare(contents: Contents, changes: dict[str, Any] | None = None) -> Path:
        folder = write_raw(contents, changes)
        succeed(stage.main, "--base", byte_base)
        return folder

    return prepare


@pytest.fixture
def reject(write_raw: Prepare, fail: Callable[..., str], byte_base: Path) -> Callable[..., str]:
    """Write raw files, run the stage, which must fail and write nothing, and return the message."""

    def reject(contents: Contents, changes: dict[str, Any] | None = None) -> str:
        folder = write_raw(contents, changes)
        message = fail(stage.main, "--base", byte_base)
        assert sorted(path.name for path in folder.iterdir()) == ["data", "params.yaml"]
        assert [path.name for path in (folder / "data").iterdir()] == ["raw"]
        return message

    return reject


@pytest.fixture
def supervised(byte_base: Path) -> Callable[..., set[str]]:
    """Return the texts in the loss of the rows of a split."""
    tokenizer = chat.load(byte_base).tokenizer

    def supervised(folder: Path, split: str = "train") -> set[str]:
        rows = tokens.read(folder / "data" / "prepared" / f"{split}.arrow")
        return {tokenizer.decode([one for one, on in zip(*row, strict=True) if on]) for row in rows}

    return supervised
