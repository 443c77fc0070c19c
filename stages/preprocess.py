"""Turn the raw rows into train, val and calibration conversations, and account for every row.

Second stage: reads every file in data/raw and the chat side of models/base, writes data/prepared. Run it with
`dvc repro preprocess`, or alone with `python -m stages.preprocess`.
"""

from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import click
from pydantic import Field, PositiveInt

from stages.common import chat, files, raw, settings


class PreprocessParams(settings.Section):
    """params.yaml: preprocess."""

    seed: int
    val_fraction: float = Field(gt=0, lt=1)
    calibration_rows: PositiveInt
    max_length: PositiveInt
    over_length: Literal["error", "drop"]
    empty_answer: Literal["error", "drop"]
    max_dropped_share: float = Field(ge=0, le=1)


class Row(NamedTuple):
    """A kept conversation, the hash of its content, and its tokens."""

    messages: chat.Messages
    key: str
    encoded: chat.Encoded


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--raw", "raw_folder", type=click.Path(path_type=Path), default="data/raw", show_default=True)
@click.option("--base", type=click.Path(path_type=Path), default="models/base", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="data/prepared", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/preprocess.json", show_default=True)
@click.option("--plot", type=click.Path(path_type=Path), default="metrics/lengths.csv", show_default=True)
def main(params: Path, raw_folder: Path, base: Path, out: Path, metrics: Path, plot: Path) -> None:
    # Params
    config = settings.load(params, "preprocess", PreprocessParams)

    # Inputs
    speaker = chat.load(base)
    raw_rows = raw.read(raw_folder)

    # Work
    dropped: Counter[str] = Counter()
    conversations = converse(raw_rows, config, dropped)
    rows = measure(conversations, speaker, config, dropped)
    refuse_losses(raw_folder, len(raw_rows), dropped, config)
    val = [row for row in rows if share(row.key, "val", config.seed) < config.val_fraction]
    train = [row for row in rows if share(row.key, "val", config.seed) >= config.val_fraction]
    ranked = sorted(train, key=lambda row: share(row.key, "calibration", config.seed))
    calibration = ranked[: config.calibration_rows]
    if not train or not val:
        raise click.ClickException(
            f"{raw_folder}: {len(rows)} rows give {len(train)} for training and {len(val)} for validation; "
            "add rows or change preprocess.val_fraction"
        )

    # Outputs
    lengths = sorted(len(row.encoded.ids) for row in rows)
    supervised = sum(sum(row.encoded.mask) for row in rows)
    splits = {"train": train, "val": val, "calibration": calibration}
    counts = {
        "rows_read": len(raw_rows),
        "rows_kept": len(rows),
        "rows_dropped": dict(dropped),
        **{f"rows_{name}": len(split) for name, split in splits.items()},
        "rows_over_length": dropped["over_length"],
        "rows_without_supervised_tokens": dropped["no_supervised_token"],
        "rows_without_supervised_stop": sum(not ends_supervised(row, speaker) for row in rows),
        "supervised_share": round(supervised / sum(lengths), 6),
        "tokens": {f"p{q}": percentile(lengths, q) for q in (50, 95, 99)} | {"max": lengths[-1]},
    }
    texts = {
        out / f"{name}.jsonl": files.dump_rows([{"messages": row.messages} for row in split])
        for name, split in splits.items()
    }
    files.write_texts(texts | {metrics: files.dump_json(counts), plot: histogram(lengths)})
    click.echo(f"{len(raw_rows)} rows read, {len(rows)} kept: {len(train)} train, {len(val)} val")
    for reason, count in sorted(dropped.items()):
        click.echo(f"  dropped, {reason}: {count}")


def converse(
    raw_rows: list[raw.RawRow], config: PreprocessParams, dropped: Counter[str]
) -> list[tuple[str, chat.Messages]]:
    """Turn rows into messages, leaving out exact duplicates and (where allowed) rows without an answer."""
    conversations = []
    seen: set[str] = set()
    for row in raw_rows:
        messages = raw.to_messages(row)
        if not messages[-1]["content"].strip():
            if config.empty_answer == "error":
                raise click.ClickException(
                    f"{row.where}: no answer; fill it in, or set preprocess.empty_answer: drop "
                    "to leave such rows out and count them"
                )
            dropped["empty_answer"] += 1
            continue
        key = raw.content_hash(messages)
        if key in seen:
            dropped["duplicate"] += 1
            continue
        seen.add(key)
        conversations.append((key, messages))
    return conversations


def measure(
    conversations: list[tuple[str, chat.Messages]],
    speaker: chat.Chat,
    config: PreprocessParams,
    dropped: Counter[str],
) -> list[Row]:
    """Tokenise the conversations, leaving out those that are too long or would teach nothing."""
    encoded = chat.encode(speaker, [messages for _, messages in conversations])
    rows = []
    for (key, messages), tokens in zip(conversations, encoded, strict=True):
        if len(tokens.ids) > config.max_length:
            dropped["over_length"] += 1
        elif not any(tokens.mask):
            dropped["no_supervised_token"] += 1
        else:
            rows.append(Row(messages, key, tokens))
    return rows


def refuse_losses(folder: Path, read: int, dropped: Counter[str], config: PreprocessParams) -> None:
    """Fail when more rows were lost than the params allow; duplicates lose nothing."""
    if dropped["over_length"] and config.over_length == "error":
        raise click.ClickException(
            f"{folder}: {dropped['over_length']} of {read} rows are longer than preprocess.max_length "
            f"({config.max_length} tokens); raise it, or set preprocess.over_length: drop"
        )
    lost = sum(dropped.values()) - dropped["duplicate"]
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()) if count)
    if lost == read - dropped["duplicate"]:
        raise click.ClickException(f"{folder}: all {read} rows dropped ({reasons}); see docs/preprocess.md")
    if lost / read > config.max_dropped_share:
        raise click.ClickException(
            f"{folder}: {lost} of {read} rows dropped ({reasons}), more than preprocess.max_dropped_share "
            f"({config.max_dropped_share}); mend the rows or raise the limit"
        )


def share(key: str, purpose: str, seed: int) -> float:
    """Place a row on [0, 1) by its content: adding other rows never moves it."""
    return int(raw.text_hash(f"{purpose}:{seed}:{key}")[:13], 16) / 16**13


def ends_supervised(row: Row, speaker: chat.Chat) -> bool:
    """Whether the last token that the row teaches is a stop token; TRL's templates teach a newline after it."""
    taught = [token for token, learnt in zip(*row.encoded, strict=True) if learnt]
    while len(taught) > 1 and not speaker.tokenizer.decode(taught[-1:], skip_special_tokens=False).strip():
        taught.pop()
    return taught[-1] in speaker.stop_ids


def percentile(ordered: list[int], q: int) -> int:
    """Give the nearest-rank percentile of ascending values."""
    return ordered[max(0, -(-len(ordered) * q // 100) - 1)]


def histogram(lengths: list[int]) -> str:
    """Count rows in at most about 32 classes of length, as CSV for `dvc plots`."""
    width = max(1, -(-lengths[-1] // 32))
    classes = Counter(length // width * width for length in lengths)
    rows = [f"{start},{classes[start]}\n" for start in range(0, max(classes) + 1, width)]
    return "tokens,rows\n" + "".join(rows)


if __name__ == "__main__":
    main()
