"""Counts: the metrics of preprocess, and the errors where too many rows are dropped or too few are left."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.common.drop_reasons import WANTED
from stages.preprocess.params import PreprocessParams
from stages.preprocess.scratch import DROP_REASONS
from stages.preprocess.sources import Source
from stages.preprocess.split import Outcomes

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLES = 5  # row ids per drop reason or finding
BARS = 32  # of the length histogram, about


def check_losses(
    folder: Path, sources: list[Source], facts: pa.Table, outcomes: Outcomes, config: PreprocessParams
) -> None:
    """Fail if more rows are dropped than the params allow, or if train or val is empty.

    Raises:
        click.ClickException: names each drop reason with the id of one row.
    """
    read, left = len(outcomes.drop_reason), int((outcomes.drop_reason < 0).sum())
    dropped = Counter(DROP_REASONS[code] for code in outcomes.drop_reason[outcomes.drop_reason >= 0].tolist())
    rows = {reason: np.flatnonzero(outcomes.drop_reason == DROP_REASONS.index(reason)) for reason in dropped}
    details = _details(rows, facts)
    reasons = ", ".join(
        f"{reason} {number} such as {_row_ids(rows[reason], sources, facts)[0]}"
        + (f": {next(iter(details[reason]))}" if reason in details else "")
        for reason, number in sorted(dropped.items())
    )
    if "prompt_mismatch" in dropped:
        reasons += "; base.template_kwargs may change the prompt, see docs/base.md"
    if not left:
        raise click.ClickException(f"{folder}: all {read} rows dropped ({reasons}); see docs/data.md")
    unwanted = sum(number for reason, number in dropped.items() if reason not in WANTED)
    limit = config.max_other_language_share
    if limit is None:
        unwanted += dropped["other_language"]
    elif dropped["other_language"] / read > limit:
        raise click.ClickException(
            f"{folder}: {dropped['other_language']} of {read} rows would be dropped as in another language, more "
            f"than preprocess.max_other_language_share ({limit}) allows; raise it or correct preprocess.languages"
        )
    if unwanted / read > config.max_dropped_share:
        raise click.ClickException(
            f"{folder}: {unwanted} of {read} rows would be dropped, more than preprocess.max_dropped_share "
            f"({config.max_dropped_share}) allows ({reasons}); fix the rows or raise the limit, see docs/data.md"
        )
    train, val = int(outcomes.train.sum()), int(outcomes.val.sum())
    if not train or not val:
        raise click.ClickException(
            f"{folder}: {left} rows give {train} for training and {val} for validation; "
            "add rows or change preprocess.val_fraction"
        )


def count_rows(sources: list[Source], facts: pa.Table, outcomes: Outcomes) -> dict[str, Any]:
    """Count rows by outcome, drop reason, file and finding, with up to EXAMPLES row ids for each."""
    kept = outcomes.drop_reason < 0
    facts_kept = facts.filter(pa.array(kept))
    lengths = np.sort(facts_kept["tokens"].to_numpy())
    dropped = {reason: np.flatnonzero(outcomes.drop_reason == code) for code, reason in enumerate(DROP_REASONS)}
    dropped = {reason: rows for reason, rows in sorted(dropped.items()) if len(rows)}
    found = _findings(facts)
    return {
        "rows_read": len(kept),
        "rows_kept": len(lengths),
        "rows_dropped": {reason: len(rows) for reason, rows in dropped.items()},
        **{f"rows_{name}": int(getattr(outcomes, name).sum()) for name in ("train", "val", "calibration")},
        "rows_truncated": pc.sum(pc.greater(facts_kept["tokens_cut"], 0)).as_py(),
        "tokens_truncated": pc.sum(facts_kept["tokens_cut"]).as_py(),
        "rows_without_supervised_tokens": len(dropped.get("no_supervised_token", ())),
        "rows_without_supervised_stop": len(lengths) - pc.sum(facts_kept["ends_in_stop"]).as_py(),
        "turns": _total(facts_kept, "turns"),
        "turns_not_as_served": _total(facts_kept, "turns_left_out"),
        "turns_without_their_stop": _total(facts_kept, "other_ends"),
        "supervised_share": round(pc.sum(facts_kept["supervised_tokens"]).as_py() / int(lengths.sum()), 6),
        "tokens": {f"p{q}": _percentile(lengths, q) for q in (50, 95, 99)} | {"max": int(lengths[-1])},
        "findings": {kind: len(rows) for kind, rows in found.items()},
        "details": _details(dropped, facts),
        "examples": {name: _row_ids(rows, sources, facts) for name, rows in (dropped | found).items()},
        "files": {
            source.name: {"format": source.reading.format}
            | _count_file(facts["file"].to_numpy() == source.number, outcomes)
            | {"unread": dict(sorted(source.reading.unread.items()))}
            | {"numbers_as_text": dict(sorted(source.reading.as_text.items()))}
            for source in sources
        },
    }


def describe_counts(counts: dict[str, Any]) -> list[str]:
    """Describe what was dropped, found and not read, in a line each."""
    lines = []
    for reason, number in counts["rows_dropped"].items():
        lines.append(f"dropped, {reason}: {number} (such as {counts['examples'][reason][0]})")
        lines += [f"  {detail}: {rows}" for detail, rows in counts["details"].get(reason, {}).items()]
    if number := counts["rows_without_supervised_stop"]:
        lines.append(
            f"WARNING: {number} rows have an answer in the loss that does not end in a stop token, so the model "
            "would not learn to stop: put the token inside the template's generation block, or set base.stop_token"
        )
    if number := counts["turns_not_as_served"]:
        lines.append(
            f"not in the loss: {number} answers before the last of their conversation, next to {counts['turns']} in "
            "it: the template writes their prompts, or them, in another way when more messages follow"
        )
    if number := counts["turns_without_their_stop"]:
        lines.append(
            f"in the loss without their last token: {number} of {counts['turns']} answers, as the template ends them "
            "in another token when more messages follow"
        )
    for kind, number in counts["findings"].items():
        lines.append(f"found, {kind}: {number} (such as {counts['examples'][kind][0]})")
    for key, words in (("unread", "not read"), ("numbers_as_text", "numbers read as text")):
        for name, file in counts["files"].items():
            if file[key]:
                lines.append(f"{words}, {name}: {', '.join(f'{name} ({rows})' for name, rows in file[key].items())}")
    return lines


def _total(facts: pa.Table, column: str) -> int:
    return int(pc.sum(facts[column]).as_py())


def length_table(facts: pa.Table, outcomes: Outcomes) -> str:
    """Count the kept rows by length in about BARS classes, as CSV for `dvc plots`."""
    lengths = facts["tokens"].filter(pa.array(outcomes.drop_reason < 0)).to_numpy()
    width = max(1, -(-int(lengths.max()) // BARS))
    counts = np.bincount(lengths // width)
    return "tokens,rows\n" + "".join(f"{number * width},{rows}\n" for number, rows in enumerate(counts.tolist()))


def outcome_table(counts: dict[str, Any]) -> str:
    """Return the number of rows by outcome and drop reason, as CSV for `dvc plots`."""
    rows = {"train": counts["rows_train"], "val": counts["rows_val"], **counts["rows_dropped"]}
    return "outcome,rows\n" + "".join(f"{outcome},{number}\n" for outcome, number in rows.items())


def _details(dropped: "dict[str, NDArray[np.int64]]", facts: pa.Table) -> dict[str, dict[str, int]]:
    """Count the causes of each drop reason: the EXAMPLES most frequent ones, and the first of equal ones first."""
    found = {}
    for reason, rows in sorted(dropped.items()):
        causes = Counter(filter(None, facts["detail"].take(pa.array(rows)).to_pylist()))
        if causes:
            found[reason] = dict(causes.most_common(EXAMPLES))
    return found


def _findings(facts: pa.Table) -> "dict[str, NDArray[np.int64]]":
    rows = np.flatnonzero(pc.not_equal(facts["findings"], "").to_numpy())
    kinds = [text.split() for text in facts["findings"].take(pa.array(rows)).to_pylist()]
    found = sorted({kind for row in kinds for kind in row})
    return {kind: rows[[kind in row for row in kinds]] for kind in found}


def _percentile(ordered: "NDArray[np.int32]", q: int) -> int:
    """Return the nearest-rank percentile of ascending values."""
    return int(ordered[max(0, -(-len(ordered) * q // 100) - 1)])


def _count_file(rows: "NDArray[np.bool_]", outcomes: Outcomes) -> dict[str, Any]:
    dropped = Counter(
        DROP_REASONS[code] for code in outcomes.drop_reason[rows & (outcomes.drop_reason >= 0)].tolist()
    )
    return {
        "rows_read": int(rows.sum()),
        "rows_train": int((outcomes.train & rows).sum()),
        "rows_val": int((outcomes.val & rows).sum()),
        "rows_dropped": dict(sorted(dropped.items())),
    }


def _row_ids(rows: "NDArray[np.int64]", sources: list[Source], facts: pa.Table) -> list[str]:
    some = facts.take(pa.array(rows[:EXAMPLES]))
    places = zip(some["file"].to_pylist(), some["line"].to_pylist(), strict=True)
    return [f"{sources[file].name}:{line}" for file, line in places]
