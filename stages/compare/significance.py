"""Significance: compare two models on the same rows, and tell how sure each difference is.

compare's statistics: McNemar's test on the rows won and lost, and bootstrap intervals of the scores' differences.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.common.scores import ANSWER_SCORES, AnswerRow

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Names in metrics/eval/MODEL.json of means over rows, and the key of the row that each one averages.
MEANS = {score: score for score in ANSWER_SCORES} | {"stop_rate": "stopped"}
BATCH = 1000  # resamples in memory


class Bootstrap(NamedTuple):
    """Settings of the intervals: number of resamples, confidence level, and seed."""

    resamples: int
    confidence: float
    seed: int


def compare_pair(ones: list[AnswerRow], others: list[AnswerRow], score: str, bootstrap: Bootstrap) -> dict[str, Any]:
    """Compare one model with another.

    Args:
        ones: the first model's rows, as in metrics/eval/MODEL.answers.jsonl.
        others: the second model's, in the same order.
        score: a row is won where this score is higher than the second model's, lost where it is lower.
        bootstrap: settings of the intervals.

    Returns:
        `rows`, `won`, `lost`, `mcnemar_p`, and for every score `difference` (first minus second) with its bounds
        `low` and `high`, or None where no row has that score.
    """
    asked = [(one, other) for one, other in zip(ones, others, strict=True) if "answer" in one]
    won = sum(one[score] > other[score] for one, other in asked)
    lost = sum(one[score] < other[score] for one, other in asked)
    sums = [[float(row[key]) for row in rows] for rows in (ones, others) for key in ("loss", "tokens")]
    return {
        "rows": len(asked),
        "won": won,
        "lost": lost,
        "mcnemar_p": mcnemar(won, lost) if asked else None,
        **{
            name: difference(
                mean_difference, [[float(pair[side][key]) for pair in asked] for side in (0, 1)], bootstrap
            )
            for name, key in MEANS.items()
        },
        "perplexity": difference(perplexity_difference, sums, bootstrap),
    }


def mcnemar(won: int, lost: int) -> float:
    """Return the p-value of McNemar's exact test: the chance of so uneven a split if both models were equally good.

    It is the sign test on the rows that differ (https://doi.org/10.1007/BF02295996), so it also fits scores with more
    than two values.
    """
    from scipy import stats  # type: ignore[import-untyped]

    return float(f"{stats.binomtest(won, won + lost).pvalue:.6g}") if won + lost else 1.0


def difference(
    statistic: "Callable[..., NDArray[Any]]", columns: list[list[float]], bootstrap: Bootstrap
) -> dict[str, float | None] | None:
    """Compute a difference and its percentile bootstrap interval; each resample takes the same rows of both models.

    Args:
        statistic: the difference of both models, from one array per column.
        columns: numbers per row, the first model's and then the second's.
        bootstrap: settings of the interval.
    """
    import numpy as np
    from scipy import stats

    if not columns[0]:
        return None
    data = [np.array(column) for column in columns]
    found = {"difference": round(float(statistic(*data)), 6), "low": None, "high": None}
    if len(data[0]) > 1:  # every resample of one row is that row
        bounds = stats.bootstrap(
            data,
            statistic,
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=bootstrap.resamples,
            confidence_level=bootstrap.confidence,
            rng=np.random.default_rng(bootstrap.seed),
            batch=BATCH,
        ).confidence_interval
        found |= {"low": round(float(bounds.low), 6), "high": round(float(bounds.high), 6)}
    return found


def mean_difference(one: "NDArray[Any]", other: "NDArray[Any]", axis: int = -1) -> "NDArray[Any]":
    """Subtract the means of two arrays."""
    return one.mean(axis) - other.mean(axis)


def perplexity_difference(
    loss: "NDArray[Any]",
    tokens: "NDArray[Any]",
    other_loss: "NDArray[Any]",
    other_tokens: "NDArray[Any]",
    axis: int = -1,
) -> "NDArray[Any]":
    """Subtract perplexities, each the exponential of the summed loss divided by the summed number of tokens."""
    import numpy as np

    return np.exp(loss.sum(axis) / tokens.sum(axis)) - np.exp(other_loss.sum(axis) / other_tokens.sum(axis))
