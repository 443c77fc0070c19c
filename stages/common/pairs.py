"""Pairs: two models on the same rows; which was better where, and how sure their difference is."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.common import scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A score's name in metrics/eval, and the key of a row's answer that it is the mean of.
MEANS = {mark: mark for mark in scores.MARKS} | {"stop_rate": "stopped"}
AT_ONCE = 1000  # resamples in memory
Row = dict[str, Any]


class Draws(NamedTuple):
    """How often rows are drawn anew, with replacement, how wide the intervals are, and what seeds the draws."""

    resamples: int
    confidence: float
    seed: int


def compare(ones: list[Row], others: list[Row], score: str, draws: Draws) -> dict[str, Any]:
    """Compare one model with another.

    Args:
        ones: what it said and scored on each row, as in metrics/eval/MODEL.answers.jsonl.
        others: the same of the other, in the same order.
        score: a row is won where this is higher than the other's, lost where it is lower.
        draws: for the intervals.

    Returns:
        `rows`, `won`, `lost`, `mcnemar_p`, and for every score `difference` with the bounds `low` and `high`, or None
        where no row has it.
    """
    asked = [(one, other) for one, other in zip(ones, others, strict=True) if "answer" in one]
    won = sum(one[score] > other[score] for one, other in asked)
    lost = sum(one[score] < other[score] for one, other in asked)
    weights = [[float(row[key]) for row in rows] for rows in (ones, others) for key in ("loss", "tokens")]
    return {
        "rows": len(asked),
        "won": won,
        "lost": lost,
        "mcnemar_p": mcnemar(won, lost) if asked else None,
        **{
            name: difference(rise, [[float(pair[side][key]) for pair in asked] for side in (0, 1)], draws)
            for name, key in MEANS.items()
        },
        "perplexity": difference(perplexity_rise, weights, draws),
    }


def mcnemar(won: int, lost: int) -> float:
    """Give the chance of a split as uneven as this, or more so, were both models equally good: McNemar's exact test.

    It is the sign test on the rows that differ (https://doi.org/10.1007/BF02295996), so scores of more than two
    values fit it, too.
    """
    from scipy import stats  # type: ignore[import-untyped]

    return float(f"{stats.binomtest(won, won + lost).pvalue:.6g}") if won + lost else 1.0


def difference(
    statistic: "Callable[..., NDArray[Any]]", columns: list[list[float]], draws: Draws
) -> dict[str, float | None] | None:
    """Give a difference with the percentile bootstrap interval over rows, drawn for both models alike."""
    import numpy as np
    from scipy import stats

    if not columns[0]:
        return None
    data = [np.array(column) for column in columns]
    found = {"difference": round(float(statistic(*data)), 6), "low": None, "high": None}
    if len(data[0]) > 1:  # one row drawn anew is the same row
        bounds = stats.bootstrap(
            data,
            statistic,
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=draws.resamples,
            confidence_level=draws.confidence,
            rng=np.random.default_rng(draws.seed),
            batch=AT_ONCE,
        ).confidence_interval
        found |= {"low": round(float(bounds.low), 6), "high": round(float(bounds.high), 6)}
    return found


def rise(one: "NDArray[Any]", other: "NDArray[Any]", axis: int = -1) -> "NDArray[Any]":
    """Subtract means."""
    return one.mean(axis) - other.mean(axis)


def perplexity_rise(
    loss: "NDArray[Any]",
    tokens: "NDArray[Any]",
    other_loss: "NDArray[Any]",
    other_tokens: "NDArray[Any]",
    axis: int = -1,
) -> "NDArray[Any]":
    """Subtract perplexities: each the exponential of all rows' loss by all rows' tokens."""
    import numpy as np

    return np.exp(loss.sum(axis) / tokens.sum(axis)) - np.exp(other_loss.sum(axis) / other_tokens.sum(axis))
