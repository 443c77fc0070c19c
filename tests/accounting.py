"""Accounting: whether what preprocess wrote (metrics, manifest, rows, tokens) agrees with itself and the files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pyarrow import parquet

from stages.common import chat, raw, tokens

Entries = list[dict[str, Any]]


def check(counts: dict[str, Any], raw_folder: Path, prepared: Path, base: Path, sample_by: str = "line") -> Entries:
    """Check that every raw row has one fate, which everything that preprocess wrote agrees on; give the manifest."""
    manifest = parquet.read_table(prepared / "manifest.parquet").to_pylist()
    places = [(path.name, row.line) for path in raw.paths(raw_folder) for row in raw.rows(path, sample_by)]
    assert [(entry["file"], entry["line"]) for entry in manifest] == places
    assert len(places) == len(set(places)) == counts["rows_read"]
    fates = Counter(entry["fate"] for entry in manifest)
    reasons = Counter(entry["reason"] for entry in manifest if entry["fate"] == "dropped")
    assert reasons == counts["rows_dropped"]
    assert (fates["train"], fates["val"]) == (counts["rows_train"], counts["rows_val"])
    assert counts["rows_read"] == counts["rows_train"] + counts["rows_val"] + sum(counts["rows_dropped"].values())
    assert counts["rows_kept"] == counts["rows_train"] + counts["rows_val"]
    for name, share in counts["files"].items():
        assert share["rows_read"] == sum(file == name for file, _ in places)
        assert share["rows_read"] == share["rows_train"] + share["rows_val"] + sum(share["rows_dropped"].values())
    for total in ("rows_read", "rows_train", "rows_val"):
        assert counts[total] == sum(share[total] for share in counts["files"].values())
    _check_examples(manifest, counts)
    speaker = chat.load(base)
    for split in ("train", "val"):
        _check_split(prepared / split, speaker, [entry for entry in manifest if entry["fate"] == split])
    texts = (prepared / "train.jsonl").read_bytes().split(b"\n")
    chosen = [texts[entry["position"]] for entry in manifest if entry["calibration"]]
    assert chosen == (prepared / "calibration.jsonl").read_bytes().split(b"\n")[:-1]
    assert len(chosen) == counts["rows_calibration"] == len(tokens.read(prepared / "calibration.arrow"))
    return manifest


def _check_examples(manifest: Entries, counts: dict[str, Any]) -> None:
    ids = [f"{entry['file']}:{entry['line']}" for entry in manifest]
    seen = set()
    for row, entry in zip(ids, manifest, strict=True):
        assert (entry["twin"] is None) == (entry["reason"] not in ("duplicate", "near_duplicate"))
        assert entry["twin"] is None or entry["twin"] in seen
        assert (entry["position"] is None) == (entry["fate"] == "dropped") == (entry["reason"] is not None)
        assert entry["fate"] == "dropped" or entry["content_hash"]
        seen.add(row)
    for reason, number in counts["rows_dropped"].items():
        rows = [row for row, entry in zip(ids, manifest, strict=True) if entry["reason"] == reason]
        assert (len(rows), rows[:5]) == (number, counts["examples"][reason])
    for kind, number in counts["findings"].items():
        rows = [row for row, entry in zip(ids, manifest, strict=True) if kind in entry["findings"].split()]
        assert (len(rows), rows[:5]) == (number, counts["examples"][kind])


def _check_split(stem: Path, speaker: chat.Chat, entries: Entries) -> None:
    """Row i of the JSON Lines, tokenised, is row i of the tokens; text that was cut has only its beginning."""
    rows = [json.loads(line) for line in stem.with_suffix(".jsonl").read_bytes().split(b"\n")[:-1]]
    prepared = tokens.read(stem.with_suffix(".arrow"))
    assert [entry["position"] for entry in entries] == list(range(len(rows))) == list(range(len(prepared)))
    expected = chat.encode(speaker, rows)
    for entry, row, made, found in zip(entries, rows, expected, prepared, strict=True):
        if "text" in row and entry["truncated"]:
            assert made.ids[: len(found.ids) - 3] == found.ids[:-3]  # a character may be cut, and merges undone
        else:
            assert (made.ids, list(made.mask)) == (found.ids, found.mask), row
        assert (entry["tokens"], entry["supervised_tokens"]) == (len(found.ids), sum(found.mask))
        assert sum(found.mask) > 0
