"""Accounting: whether metrics, manifest, rows and tokens of preprocess agree with each other and the raw rows."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pyarrow import parquet

from stages.common import chat, tokens
from stages.preprocess.params import FileParams
from stages.preprocess.readers import read_rows
from stages.preprocess.sources import data_files

Entries = list[dict[str, Any]]


def check(counts: dict[str, Any], raw_folder: Path, prepared: Path, base: Path, sample_by: str = "line") -> Entries:
    """Check that every raw row has one outcome, the same in every output of preprocess; return the manifest."""
    manifest = parquet.read_table(prepared / "manifest.parquet").to_pylist()
    params = FileParams(sample_by=sample_by)  # type: ignore[arg-type]
    places = [
        (path.relative_to(raw_folder).as_posix(), row.line)
        for path in data_files(raw_folder)
        for row in read_rows(path, params)
    ]
    assert [(entry["file"], entry["line"]) for entry in manifest] == places
    assert len(places) == len(set(places)) == counts["rows_read"]
    outcomes = Counter(entry["outcome"] for entry in manifest)
    reasons = Counter(entry["reason"] for entry in manifest if entry["outcome"] == "dropped")
    assert reasons == counts["rows_dropped"]
    assert (outcomes["train"], outcomes["val"]) == (counts["rows_train"], counts["rows_val"])
    assert counts["rows_read"] == counts["rows_train"] + counts["rows_val"] + sum(counts["rows_dropped"].values())
    assert counts["rows_kept"] == counts["rows_train"] + counts["rows_val"]
    for name, share in counts["files"].items():
        assert share["rows_read"] == sum(file == name for file, _ in places)
        assert share["rows_read"] == share["rows_train"] + share["rows_val"] + sum(share["rows_dropped"].values())
    for total in ("rows_read", "rows_train", "rows_val"):
        assert counts[total] == sum(share[total] for share in counts["files"].values())
    _check_examples(manifest, counts)
    chat_tokenizer = chat.load(base)
    for split in ("train", "val"):
        _check_split(prepared / split, chat_tokenizer, [entry for entry in manifest if entry["outcome"] == split])
    texts = (prepared / "train.jsonl").read_bytes().split(b"\n")
    chosen = [texts[entry["position"]] for entry in manifest if entry["calibration"]]
    assert chosen == (prepared / "calibration.jsonl").read_bytes().split(b"\n")[:-1]
    assert len(chosen) == counts["rows_calibration"] == len(tokens.read(prepared / "calibration.arrow"))
    return manifest


def _check_examples(manifest: Entries, counts: dict[str, Any]) -> None:
    ids = [f"{entry['file']}:{entry['line']}" for entry in manifest]
    seen = set()
    for row, entry in zip(ids, manifest, strict=True):
        assert (entry["duplicate_of"] is None) == (entry["reason"] not in ("duplicate", "near_duplicate"))
        assert entry["duplicate_of"] is None or entry["duplicate_of"] in seen
        assert (entry["position"] is None) == (entry["outcome"] == "dropped") == (entry["reason"] is not None)
        assert entry["outcome"] == "dropped" or entry["content_hash"]
        seen.add(row)
    for reason, number in counts["rows_dropped"].items():
        rows = [row for row, entry in zip(ids, manifest, strict=True) if entry["reason"] == reason]
        assert (len(rows), rows[:5]) == (number, counts["examples"][reason])
    for kind, number in counts["findings"].items():
        rows = [row for row, entry in zip(ids, manifest, strict=True) if kind in entry["findings"].split()]
        assert (len(rows), rows[:5]) == (number, counts["examples"][kind])


def _check_split(stem: Path, chat_tokenizer: chat.ChatTokenizer, entries: Entries) -> None:
    """Row i of the JSON Lines, tokenised, is row i of the tokens. Truncated text has only the first of them."""
    rows = [json.loads(line) for line in stem.with_suffix(".jsonl").read_bytes().split(b"\n")[:-1]]
    prepared = tokens.read(stem.with_suffix(".arrow"))
    assert [entry["position"] for entry in entries] == list(range(len(rows))) == list(range(len(prepared)))
    expected = chat.encode(chat_tokenizer, rows)
    for entry, row, made, found in zip(entries, rows, expected, prepared, strict=True):
        if "text" in row and entry["truncated"]:
            assert made.ids[: len(found.ids) - 3] == found.ids[:-3]  # the cut may split a character or a merged token
        else:
            assert (made.ids, list(made.mask)) == (found.ids, found.mask), row
        assert (entry["tokens"], entry["supervised_tokens"]) == (len(found.ids), sum(found.mask))
        assert sum(found.mask) > 0
