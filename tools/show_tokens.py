"""Print prepared rows token by token, as models are trained on them, with the supervised tokens marked.

Reads data/prepared/SPLIT.arrow and the tokenizer of models/base. Run it with `make show-tokens`
(N=3, SPLIT=val, ROW=skills.jsonl:17 and IDS=1 are for the options below), or with `python -m tools.show_tokens`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from stages.common import files, tokens
from tools.common import manifest, rows
from tools.common.manifest import Record

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = Path("models/base/tokenizer.json")
LEGEND = r"⟦supervised⟧  · between tokens  ⏎ newline  \t, \u200b and so on: what would not show"


class Piece(NamedTuple):
    """Tokens that make text together: one, or the several that a character is spread over."""

    ids: list[int]
    text: str
    supervised: bool


@click.command(help=__doc__)
@click.option("--n", "count", type=click.IntRange(min=1), default=3, show_default=True, help="How many rows.")
@click.option("--row", help="One row by its id, such as skills.jsonl:17.")
@click.option("--split", type=click.Choice(["train", "val", "calibration"]), help="Default: train, or the row's own.")
@click.option("--ids", is_flag=True, help="Print token ids, too.")
def main(count: int, row: str | None, split: str | None, ids: bool) -> None:
    files.require(Path(manifest.FILE), "dvc repro")
    files.require(TOKENIZER, "dvc repro base")
    record = named(row, split) if row else None
    split = split or (record["fate"] if record else "train")
    table = tokens.table(Path(f"data/prepared/{split}.arrow"))

    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER))
    echo(click.style(LEGEND, dim=True))
    for place, shown in chosen(record, split, count):
        encoded = table.slice(place, 1).to_pylist()
        if not encoded or len(encoded[0]["input_ids"]) != shown["tokens"]:
            message = f"data/prepared/{split}.arrow: not of the run that wrote {manifest.FILE}"
            raise click.ClickException(f"{message}; run `dvc repro preprocess`")
        token_ids, mask = encoded[0]["input_ids"], encoded[0]["assistant_masks"]
        title = f"{manifest.row_id(shown)}: {len(token_ids)} tokens, {sum(mask)} of them supervised"
        echo(f"\n{click.style(title, bold=True)}")
        echo(drawn(list(pieces(tokenizer, token_ids, mask)), ids))


def echo(text: str) -> None:
    """Print with colours on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)


def named(row: str, split: str | None) -> Record:
    """Find the row to show.

    Raises:
        click.ClickException: there is no such row, or it is not in the split.
    """
    record = manifest.by_id(Path(manifest.FILE), row)
    if record is None:
        raise click.ClickException(f"{row}: no row id such as skills.jsonl:17; `make trace` finds rows by words")
    if record["fate"] == "dropped":
        raise click.ClickException(
            f"{row}: dropped ({record['reason']}), so it has no tokens; `make trace` says more"
        )
    if split not in (None, record["fate"], "calibration" if record["calibration"] else None):
        raise click.ClickException(f"{row}: not in {split}: it is a {record['fate']} row; leave SPLIT out")
    return record


def chosen(record: Record | None, split: str, count: int) -> list[tuple[int, Record]]:
    """Give the rows to show, each with its place in the token file."""
    import pyarrow.compute as pc

    if split == "calibration":  # in the order of the train rows that they were drawn from
        drawn_rows = list(enumerate(manifest.read(Path(manifest.FILE), pc.field("calibration"))))
        return [pair for pair in drawn_rows if record in (None, pair[1])][:count]
    if record:
        return [(record["position"], record)]
    first = (pc.field("fate") == split) & (pc.field("position") < count)
    return [(found["position"], found) for found in manifest.read(Path(manifest.FILE), first)]


def pieces(tokenizer: "Tokenizer", ids: list[int], mask: list[int]) -> Iterator[Piece]:
    """Split a row where the tokenizer's text of it splits, so that no piece ends inside a character."""

    def text(some: list[int]) -> str:
        return tokenizer.decode(some, skip_special_tokens=False)

    before: list[int] = []  # decoded along: some tokenizers strip the space of a first token
    waiting: list[int] = []
    for index, (token, learnt) in enumerate(zip(ids, mask, strict=True)):
        waiting.append(token)
        so_far = text(before + waiting)[len(text(before)) :]
        # U+FFFD stands for bytes that are no whole character yet.
        if not so_far.endswith("\ufffd") or mask[index + 1 : index + 2] != [learnt]:
            yield Piece(waiting, so_far, learnt == 1)
            before, waiting = waiting, []


def drawn(shown: list[Piece], ids: bool) -> str:
    """Give the pieces as text, one mark on every boundary: ⟦ and ⟧ around what is supervised, · elsewhere."""
    flags = [False, *(piece.supervised for piece in shown), False]
    parts = []
    for index, piece in enumerate(shown):
        earlier, supervised, later = flags[index : index + 3]
        start = "⟦" if supervised and not earlier else ""
        last = index == len(shown) - 1
        end = "⟧" if supervised and not later else "·" if supervised == later and not last else ""
        numbers = f"({' '.join(map(str, piece.ids))})" if ids else ""
        body = "\n".join(map(rows.visible, piece.text.split("\n"))).replace("\n", "⏎\n")
        line_end = "\n" if body.endswith("\n") else ""
        text = start + body.removesuffix("\n") + numbers
        parts.append(click.style(text + end, fg="green") if supervised else text + click.style(end, dim=True))
        parts.append(line_end)
    return "".join(parts).rstrip("\n")


if __name__ == "__main__":
    main()
