"""Print prepared rows token by token, as the model is trained on them, with the supervised tokens marked.

Reads data/prepared/SPLIT.arrow and the tokenizer of models/base. Run it with `make show-tokens`
(N=3, SPLIT=val, ROW=skills.jsonl:17 and IDS=1 set the options below), or with `python -m tools.show_tokens`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from stages.common import files, tokens
from tools.common.manifest import MANIFEST, Record, find_by_id, read_records, row_id
from tools.common.terminal import visible

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = Path("models/base/tokenizer.json")
LEGEND = r"⟦supervised⟧  · between tokens  ⏎ newline  \t, \u200b, …: characters that do not show"


class Piece(NamedTuple):
    """One token, or the several tokens that together make one character."""

    ids: list[int]
    text: str
    supervised: bool


@click.command(help=__doc__)
@click.option("--n", "count", type=click.IntRange(min=1), default=3, show_default=True, help="How many rows.")
@click.option("--row", help="One row by its id, such as skills.jsonl:17.")
@click.option("--split", type=click.Choice(["train", "val", "calibration"]), help="Default: train, or the row's own.")
@click.option("--ids", is_flag=True, help="Print the token ids, too.")
def main(count: int, row: str | None, split: str | None, ids: bool) -> None:
    files.require(Path(MANIFEST), "dvc repro")
    files.require(TOKENIZER, "dvc repro base")
    record = find_row(row, split) if row else None
    split = split or (record["outcome"] if record else "train")
    table = tokens.table(Path(f"data/prepared/{split}.arrow"))

    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER))
    echo(click.style(LEGEND, dim=True))
    for place, shown in chosen_rows(record, split, count):
        encoded = table.slice(place, 1).to_pylist()
        if not encoded or len(encoded[0]["input_ids"]) != shown["tokens"]:
            message = f"data/prepared/{split}.arrow: of another run than {MANIFEST}"
            raise click.ClickException(f"{message}; run `dvc repro preprocess`")
        token_ids, mask = encoded[0]["input_ids"], encoded[0]["assistant_masks"]
        title = f"{row_id(shown)}: {len(token_ids)} tokens, {sum(mask)} of them supervised"
        echo(f"\n{click.style(title, bold=True)}")
        echo(marked(list(pieces(tokenizer, token_ids, mask)), ids))


def echo(text: str) -> None:
    """Print with colours on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)


def find_row(row: str, split: str | None) -> Record:
    """Find the record of the row to show.

    Raises:
        click.ClickException: there is no such row, or it is not in the split.
    """
    record = find_by_id(Path(MANIFEST), row)
    if record is None:
        raise click.ClickException(f"{row}: not a row id, such as skills.jsonl:17; `make trace` finds rows by words")
    if record["outcome"] == "dropped":
        raise click.ClickException(
            f"{row}: dropped ({record['reason']}), so it has no tokens; see `make trace ROW={row}`"
        )
    if split not in (None, record["outcome"], "calibration" if record["calibration"] else None):
        raise click.ClickException(f"{row}: a {record['outcome']} row, not in {split}; leave SPLIT out")
    return record


def chosen_rows(record: Record | None, split: str, count: int) -> list[tuple[int, Record]]:
    """Return the position in the token file and the record of each row to show."""
    import pyarrow.compute as pc

    if split == "calibration":  # in the order of the train rows that they were drawn from
        drawn_rows = list(enumerate(read_records(Path(MANIFEST), pc.field("calibration"))))
        return [pair for pair in drawn_rows if record in (None, pair[1])][:count]
    if record:
        return [(record["position"], record)]
    first = (pc.field("outcome") == split) & (pc.field("position") < count)
    return [(found["position"], found) for found in read_records(Path(MANIFEST), first)]


def pieces(tokenizer: "Tokenizer", ids: list[int], mask: list[int]) -> Iterator[Piece]:
    """Split the tokens of a row so that no piece ends inside a character, and none mixes values of the loss mask."""

    def text(some: list[int]) -> str:
        return tokenizer.decode(some, skip_special_tokens=False)

    before: list[int] = []  # decoded along, as some tokenizers strip the space of a first token
    waiting: list[int] = []
    for index, (token, supervised) in enumerate(zip(ids, mask, strict=True)):
        waiting.append(token)
        so_far = text(before + waiting)[len(text(before)) :]
        # U+FFFD stands for bytes that do not make a character yet.
        if not so_far.endswith("\ufffd") or mask[index + 1 : index + 2] != [supervised]:
            yield Piece(waiting, so_far, supervised == 1)
            before, waiting = waiting, []


def marked(shown: list[Piece], ids: bool) -> str:
    """Write the pieces as text with one mark at every boundary: ⟦ and ⟧ around supervised ones, · elsewhere."""
    flags = [False, *(piece.supervised for piece in shown), False]
    parts = []
    for index, piece in enumerate(shown):
        earlier, supervised, later = flags[index : index + 3]
        start = "⟦" if supervised and not earlier else ""
        last = index == len(shown) - 1
        end = "⟧" if supervised and not later else "·" if supervised == later and not last else ""
        numbers = f"({' '.join(map(str, piece.ids))})" if ids else ""
        body = "\n".join(map(visible, piece.text.split("\n"))).replace("\n", "⏎\n")
        line_end = "\n" if body.endswith("\n") else ""
        text = start + body.removesuffix("\n") + numbers
        parts.append(click.style(text + end, fg="green") if supervised else text + click.style(end, dim=True))
        parts.append(line_end)
    return "".join(parts).rstrip("\n")


if __name__ == "__main__":
    main()
