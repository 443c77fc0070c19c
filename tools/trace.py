"""Tell what became of a row of data/raw, and which model was trained on it.

ROW is a row id such as `skills.jsonl:17`, a content hash or at least its first 8 digits, or words that a kept row
holds; of several rows the ids are listed. Reads data/prepared and dvc.lock, or what a git revision had there. Run it
with `make trace ROW=skills.jsonl:17`, `make trace ROW="capital letters" REV=v1.0`, or with `python -m tools.trace`.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import click

from stages.common import checks, raw
from tools.common import manifest, rows, version
from tools.common.manifest import Record
from tools.common.version import Version

LISTED, MESSAGES, WIDTH = 10, 6, 90  # rows, messages of a row, characters of a message
# How a model comes from a train row: the stage, what it writes, from what out of which stage.
CHAIN = (
    ("train", "models/adapter", "data/prepared/train.arrow", "preprocess", "trained on it"),
    ("merge", "models/merged", "models/adapter", "train", "base with that adapter"),
    ("awq", "models/awq", "models/merged", "merge", "that merged model, quantised"),
)


@click.command(help=__doc__)
@click.argument("row")
@click.option("--rev", help="A git revision, in place of the workspace.")
def main(row: str, rev: str | None) -> None:
    here = version.load(rev)
    path = here.path(manifest.FILE)
    record = manifest.by_id(path, row)
    found = [record] if record else manifest.by_hash(path, row) or by_words(path, row, here)
    if not found:
        raise click.ClickException(f"{row}: no row has this id or hash, and no kept row these words")
    if len(found) > 1:
        for record in found[:LISTED]:
            click.echo(f"{manifest.row_id(record)}  {record['fate']}")
        count = f"the first {LISTED} rows" if len(found) > LISTED else f"{len(found)} rows"
        click.echo(f"{count} that match; `make trace ROW={manifest.row_id(found[0])}` tells more of one", err=True)
        return
    for name, text in itertools.chain(facts(found[0], path, here), models(found[0], here)):
        click.echo(f"{name:14}  {text}")


def by_words(path: Path, text: str, here: Version) -> list[Record]:
    """Find kept rows that hold every word: as many as are listed, and one more where there is one."""
    import pyarrow.compute as pc

    found: list[Record] = []
    for fate in ("train", "val"):
        left = LISTED + 1 - len(found)
        places = rows.search(here.path(f"data/prepared/{fate}.jsonl"), text.lower().split(), left) if left else []
        found += manifest.read(path, (pc.field("fate") == fate) & pc.field("position").isin(places)) if places else []
    return found


def facts(record: Record, path: Path, here: Version) -> Iterator[tuple[str, str]]:
    """Give what the manifest says of a row, and what the row says, shortened."""
    fate, place = record["fate"], record["position"]
    yield "row", f"{manifest.row_id(record)} in data/raw"
    yield "content hash", record["content_hash"] or "none: it is no conversation"
    if fate == "dropped":
        _, words = checks.REASONS.get(record["reason"], ("", "a reason of that revision"))
        yield "fate", f"dropped: {words} ({record['reason']})"
    else:
        yield "fate", f"{fate}: line {place + 1} of data/prepared/{fate}.jsonl, row {place} of {fate}.arrow"
    if record["tokens"] is not None:
        cut = ", cut to preprocess.max_length" if record["truncated"] else ""
        yield "tokens", f"{record['tokens']}, {record['supervised_tokens']} of them supervised{cut}"
    if record["findings"]:
        yield "findings", record["findings"]
    if fate == "train":
        yield "calibration", "yes" if record["calibration"] else "no"
    shown = manifest.by_id(path, record["twin"]) if record["twin"] else record
    if shown and shown is not record:
        yield "twin", f"{record['twin']} ({shown['fate']}), which says:"
    if shown and shown["position"] is not None:
        name = f"data/prepared/{shown['fate']}.jsonl"
        yield from shortened(list(rows.spoken(rows.read(here.path(name), shown["position"]))))
    elif here.rev is None:
        yield from shortened(list(written(record)))


def written(record: Record) -> Iterator[tuple[str, str]]:
    """Give a dropped row as it stands in data/raw, if it still does; of a longer text its first line."""
    path = Path("data/raw", record["file"])
    for row in raw.rows(path) if path.exists() else ():
        if row.line == record["line"]:
            yield "raw row", json.dumps(row.values, ensure_ascii=False, default=str)
            return


def shortened(said: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Give the first messages and the last, each on one line."""
    left_out = len(said) - MESSAGES
    for index, (name, text) in enumerate(said):
        if left_out <= 0 or index < MESSAGES - 1 or index == len(said) - 1:
            line = rows.visible(" ".join(text.split()))
            yield name, line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
        elif index == MESSAGES - 1:
            yield "…", f"{left_out} more"


def models(record: Record, here: Version) -> Iterator[tuple[str, str]]:
    """Give which models were trained, calibrated or scored on a row, as far as dvc.lock can tell."""
    if not here.entry("preprocess", "outs", manifest.FILE):
        yield "models", f"not known: dvc.lock does not have {manifest.FILE}; run `dvc repro`"
    elif here.rev is None and not here.holds(manifest.FILE):
        yield "models", f"not known: {manifest.FILE} is newer than dvc.lock; run `dvc repro`"
    elif record["fate"] == "train":
        yield from trained(record, here)
    elif record["fate"] == "val":
        yield "models", "none was trained on it"
        yield from scored(record, here)
    else:
        twin = f"; of its twin, `make trace ROW={record['twin']}` tells" if record["twin"] else ""
        yield "models", f"none was trained on it{twin}"


def trained(record: Record, here: Version) -> Iterator[tuple[str, str]]:
    """Follow a train row through dvc.lock, as far as each stage ran on what the stage before it wrote."""
    for stage, model, source, maker, words in CHAIN:
        made = here.entry(stage, "outs", model)
        if not here.used(stage, source, maker):
            state = f"made from another {source} than this one" if made else "not made"
            yield model, state if here.rev else f"{state}; run `dvc repro {stage}`"
            return
        calibrated = record["calibration"] and here.used(stage, "data/prepared/calibration.", "preprocess")
        yield model, f"{words}{', calibrated on this row' if calibrated else ''}; md5 {made['md5']}"


def scored(record: Record, here: Version) -> Iterator[tuple[str, str]]:
    """Give the models whose scores count a val row: eval takes the first `eval.rows` of them."""
    for model in ("base", "merged", "awq"):
        stage = f"eval@{model}"
        if here.used(stage, "data/prepared/val.", "preprocess"):
            limit = here.lock["stages"][stage]["params"]["params.yaml"]["eval.rows"]
            takes = f"not scored on it: eval.rows takes the first {limit} val rows"
            yield f"models/{model}", takes if record["position"] >= limit else "scored on it"


if __name__ == "__main__":
    main()
