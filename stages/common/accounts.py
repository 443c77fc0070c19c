"""Accounts: how many rows came in, and what became of them."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.common import checks
from stages.common.ledger import REASONS, Fates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.common.checks import PreprocessParams
    from stages.common.drafts import Source

EXAMPLES = 5  # row ids given for each reason
CLASSES = 32  # of length, in the histogram


def count(sources: "list[Source]", facts: pa.Table, fate: Fates) -> dict[str, Any]:
    """Count rows by fate, reason, file and finding, with up to EXAMPLES row ids for whatever is amiss."""
    kept = fate.reason < 0
    facts_kept = facts.filter(pa.array(kept))
    lengths = np.sort(facts_kept["tokens"].to_numpy())
    dropped = {reason: np.flatnonzero(fate.reason == code) for code, reason in enumerate(REASONS)}
    dropped = {reason: rows for reason, rows in sorted(dropped.items()) if len(rows)}
    found = findings(facts)
    return {
        "rows_read": len(kept),
        "rows_kept": len(lengths),
        "rows_dropped": {reason: len(rows) for reason, rows in dropped.items()},
        **{f"rows_{name}": int(getattr(fate, name).sum()) for name in ("train", "val", "calibration")},
        "rows_truncated": pc.sum(pc.greater(facts_kept["cut"], 0)).as_py(),
        "tokens_truncated": pc.sum(facts_kept["cut"]).as_py(),
        "rows_without_supervised_tokens": len(dropped.get("no_supervised_token", ())),
        "rows_without_supervised_stop": len(lengths) - pc.sum(facts_kept["stops"]).as_py(),
        "supervised_share": round(pc.sum(facts_kept["supervised_tokens"]).as_py() / int(lengths.sum()), 6),
        "tokens": {f"p{q}": percentile(lengths, q) for q in (50, 95, 99)} | {"max": int(lengths[-1])},
        "findings": {kind: len(rows) for kind, rows in found.items()},
        "examples": {name: _ids(rows, sources, facts) for name, rows in (dropped | found).items()},
        "files": {
            source.path.name: {"format": source.form} | _share(facts["file"].to_numpy() == number, fate)
            for number, source in enumerate(sources)
        },
    }


def findings(facts: pa.Table) -> "dict[str, NDArray[np.int64]]":
    """Give the rows in which each kind of secret or personal data was seen."""
    rows = np.flatnonzero(pc.not_equal(facts["findings"], "").to_numpy())
    kinds = [text.split() for text in facts["findings"].take(pa.array(rows)).to_pylist()]
    seen = sorted({kind for row in kinds for kind in row})
    return {kind: rows[[kind in row for row in kinds]] for kind in seen}


def refuse_losses(
    folder: Path, sources: "list[Source]", facts: pa.Table, fate: Fates, config: "PreprocessParams"
) -> None:
    """Fail when more rows were lost than the params allow, or none is left to train or to score on.

    Raises:
        click.ClickException: names each reason with one row.
    """
    read, left = len(fate.reason), int((fate.reason < 0).sum())
    lost = Counter(REASONS[code] for code in fate.reason[fate.reason >= 0].tolist())
    firsts = {reason: np.flatnonzero(fate.reason == REASONS.index(reason)) for reason in lost}
    reasons = ", ".join(
        f"{reason} {number} such as {_ids(firsts[reason], sources, facts)[0]}"
        for reason, number in sorted(lost.items())
    )
    if not left:
        raise click.ClickException(f"{folder}: all {read} rows dropped ({reasons}); see docs/data.md")
    unwanted = sum(number for reason, number in lost.items() if reason not in checks.WANTED)
    if unwanted / read > config.max_dropped_share:
        raise click.ClickException(
            f"{folder}: {unwanted} of {read} rows would be lost, more than preprocess.max_dropped_share "
            f"({config.max_dropped_share}) allows ({reasons}); mend the rows or raise the limit, see docs/data.md"
        )
    train, val = int(fate.train.sum()), int(fate.val.sum())
    if not train or not val:
        raise click.ClickException(
            f"{folder}: {left} rows give {train} for training and {val} for validation; "
            "add rows or change preprocess.val_fraction"
        )


def percentile(ordered: "NDArray[np.int32]", q: int) -> int:
    """Give the nearest-rank percentile of ascending values."""
    return int(ordered[max(0, -(-len(ordered) * q // 100) - 1)])


def histogram(facts: pa.Table, fate: Fates) -> str:
    """Count kept rows in at most about CLASSES classes of length, as CSV for `dvc plots`."""
    lengths = facts["tokens"].filter(pa.array(fate.reason < 0)).to_numpy()
    width = max(1, -(-int(lengths.max()) // CLASSES))
    counts = np.bincount(lengths // width)
    return "tokens,rows\n" + "".join(f"{number * width},{rows}\n" for number, rows in enumerate(counts.tolist()))


def fates_table(counts: dict[str, Any]) -> str:
    """Give the rows by fate as CSV for `dvc plots`."""
    rows = {"train": counts["rows_train"], "val": counts["rows_val"], **counts["rows_dropped"]}
    return "fate,rows\n" + "".join(f"{fate},{number}\n" for fate, number in rows.items())


def _share(rows: "NDArray[np.bool_]", fate: Fates) -> dict[str, Any]:
    lost = Counter(REASONS[code] for code in fate.reason[rows & (fate.reason >= 0)].tolist())
    return {
        "rows_read": int(rows.sum()),
        "rows_train": int((fate.train & rows).sum()),
        "rows_val": int((fate.val & rows).sum()),
        "rows_dropped": dict(sorted(lost.items())),
    }


def _ids(rows: "NDArray[np.int64]", sources: "list[Source]", facts: pa.Table) -> list[str]:
    some = facts.take(pa.array(rows[:EXAMPLES]))
    places = zip(some["file"].to_pylist(), some["line"].to_pylist(), strict=True)
    return [f"{sources[file].path.name}:{line}" for file, line in places]
