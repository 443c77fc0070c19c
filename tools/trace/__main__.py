"""Print what became of a row of data/raw, and which models were trained on it.

ROW is a row id such as `skills.jsonl:17`, at least 8 digits of a content hash, or words that a kept row contains;
several rows are listed by their ids. Reads data/prepared and dvc.lock, of the workspace or of a git revision. Run it
with `make trace ROW=skills.jsonl:17`, `make trace ROW="capital letters" REV=v1.0`, or with `python -m tools.trace`.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import click

from stages.common import drop_reasons
from stages.common.params import load_params
from stages.preprocess.params import PreprocessParams
from stages.preprocess.readers import read_rows
from stages.preprocess.sources import file_params
from tools.common.dvc_lock import DvcLock, read_lock
from tools.common.manifest import MANIFEST, Record, find_by_hash, find_by_id, read_records, row_id
from tools.common.terminal import visible
from tools.trace.prepared_rows import find_rows, messages, read_row
from tools.trace.trained_models import models

LISTED, MESSAGES, WIDTH = 10, 6, 90  # rows, messages of a row, characters of a message


@click.command(help=__doc__)
@click.argument("row")
@click.option("--rev", help="A git revision instead of the workspace.")
def main(row: str, rev: str | None) -> None:
    lock = read_lock(rev)
    manifest = lock.path(MANIFEST)
    record = find_by_id(manifest, row)
    found = [record] if record else find_by_hash(manifest, row) or find_by_words(manifest, row, lock)
    if not found:
        raise click.ClickException(f"{row}: no row has this id or hash, and no kept row has these words; try others")
    if len(found) > 1:
        for record in found[:LISTED]:
            click.echo(f"{row_id(record)}  {record['outcome']}")
        count = f"more than {LISTED} rows" if len(found) > LISTED else f"{len(found)} rows"
        click.echo(f"{count} match; `make trace ROW={row_id(found[0])}` shows one", err=True)
        return
    for name, text in itertools.chain(facts(found[0], manifest, lock), models(found[0], lock)):
        click.echo(f"{name:14}  {text}")


def find_by_words(manifest: Path, text: str, lock: DvcLock) -> list[Record]:
    """Find kept rows that contain every word: at most one more than are listed."""
    import pyarrow.compute as pc

    found: list[Record] = []
    for split in ("train", "val"):
        left = LISTED + 1 - len(found)
        file = f"data/prepared/{split}.jsonl"
        positions = find_rows(lock.path(file), text.lower().split(), left) if left else []
        if positions:
            found += read_records(manifest, (pc.field("outcome") == split) & pc.field("position").isin(positions))
    return found


def facts(record: Record, manifest: Path, lock: DvcLock) -> Iterator[tuple[str, str]]:
    """Yield what the manifest says of a row, then the row itself, shortened."""
    outcome, position = record["outcome"], record["position"]
    yield "row", f"{row_id(record)} in data/raw"
    yield "content hash", record["content_hash"] or "none: the row is not a conversation"
    if outcome == "dropped":
        _, words = drop_reasons.REASONS.get(record["reason"], ("", "a drop reason of that revision"))
        yield "outcome", f"dropped: {words} ({record['reason']})"
    else:
        line = f"line {position + 1} of data/prepared/{outcome}.jsonl, row {position} of {outcome}.arrow"
        yield "outcome", f"{outcome}: {line}"
    if record["tokens"] is not None:
        cut = ", cut to preprocess.max_length" if record["truncated"] else ""
        yield "tokens", f"{record['tokens']}, {record['supervised_tokens']} of them supervised{cut}"
    if record["findings"]:
        yield "findings", record["findings"]
    if outcome == "train":
        yield "calibration", "yes" if record["calibration"] else "no"
    shown = find_by_id(manifest, record["duplicate_of"]) if record["duplicate_of"] else record
    if shown and shown is not record:
        yield "duplicate of", f"{record['duplicate_of']} ({shown['outcome']}):"
    if shown and shown["position"] is not None:
        file = lock.path(f"data/prepared/{shown['outcome']}.jsonl")
        yield from shortened(list(messages(read_row(file, shown["position"]))))
    elif lock.rev is None:
        yield from raw_row(record)


def raw_row(record: Record) -> Iterator[tuple[str, str]]:
    """Yield a dropped row as data/raw has it, if the row is still there; of a longer text the first line."""
    folder = Path("data/raw")
    path = folder / record["file"]
    files = load_params(Path("params.yaml"), "preprocess", PreprocessParams).files
    params = file_params(record["file"], files)
    for row in read_rows(path, params, folder=folder) if path.exists() else ():
        if row.line == record["line"]:
            yield from shortened([("raw row", json.dumps(row.values, ensure_ascii=False, default=str))])
            return


def shortened(parts: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the first messages and the last one, each on one line."""
    left_out = len(parts) - MESSAGES
    for index, (name, text) in enumerate(parts):
        if left_out <= 0 or index < MESSAGES - 1 or index == len(parts) - 1:
            line = visible(" ".join(text.split()))
            yield name, line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
        elif index == MESSAGES - 1:
            yield "…", f"{left_out} more"


if __name__ == "__main__":
    main()
