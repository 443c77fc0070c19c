"""Fitted limits: the worst value of each gate that a run's own figures still allow.

Where metrics/compare.json holds an interval of the figure, the limit is the worse end of it. A share of counted
things has a Wilson interval. For all other figures the metrics hold none, and the limit leaves them a tenth. A limit
is rounded to three decimals, away from the figure. `make gates` proposes such limits; a gate with `not_worse_than`
has the one of another run.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import click

from stages.report.gates import GATES
from stages.report.verdicts import cannot_be_judged, measure
from tools.common.recorded_run import Run

SLACK = 0.1  # for a figure without an interval
DECIMALS = 3


class Fit(NamedTuple):
    """A limit, and why it is this one."""

    limit: float
    why: str


class Figure(NamedTuple):
    """What a rule fits a limit to: the gate's value, the metrics by name, and the confidence of intervals."""

    value: float
    metrics: dict[str, Any]
    confidence: float
    lower: bool  # whether the lower end is the worse one

    def end(self) -> str:
        """Name the worse end of the interval."""
        return f"{'lower' if self.lower else 'upper'} end of the {self.confidence * 100:g} %"


def fit_limit(name: str, run: Run) -> Fit:
    """Fit the limit of a gate to a run.

    Args:
        name: the gate.
        run: its `stages` and its `metrics`, with compare.

    Raises:
        click.ClickException: the run has no such figure, or it cannot be judged.
    """
    metrics = run["metrics"]
    value = measure(name, metrics)
    problem = cannot_be_judged(name, metrics, value)
    if value is None or problem:
        raise click.ClickException(problem)
    confidence = run["stages"].get("compare", {}).get("params", {}).get("compare.confidence")
    if confidence is None or "compare" not in metrics:
        raise click.ClickException("metrics/compare.json: not in this run; run `make repro`")
    figure = Figure(value, metrics, confidence, GATES[name].better == "min")
    try:
        limit, why = RULES[name](figure)
    except KeyError as error:
        raise click.ClickException(f"metrics: no `{error.args[0]}`; run `make repro`") from None
    except TypeError:
        raise click.ClickException("metrics: a figure is no number; run `make repro`") from None
    return Fit(outward(limit, figure.lower), why)


def outward(limit: float, lower: bool) -> float:
    """Round a limit to the side that lets more pass."""
    scaled = round(limit * 10**DECIMALS, 6)  # 0.29 * 1000 is not 290
    return (math.floor(scaled) if lower else math.ceil(scaled)) / 10**DECIMALS + 0.0  # -0.0 is 0


def wilson(part: float, whole: float, confidence: float) -> tuple[float, float]:
    """Return Wilson's interval of a share (https://doi.org/10.1080/01621459.1927.10502953)."""
    from scipy import stats  # type: ignore[import-untyped]

    found = stats.binomtest(round(part), round(whole)).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def difference(pair: str, score: str) -> Callable[[Figure], Fit]:
    """Fit to the interval of a difference in metrics/compare.json: the first model of the pair minus the second."""

    def fit(figure: Figure) -> Fit:
        rows, low, high = _interval(figure, pair, score)
        sign = 1 if figure.lower else -1  # a drop is the second model minus the first
        if low < high:
            ends = sorted((sign * low, sign * high))
            return Fit(sign * low, f"{figure.end()} interval, {ends[0]:g} to {ends[1]:g} on {rows} rows")
        # Every resample gave the same: no row differs, or all do. So it is a share of rows, with a Wilson interval.
        least, most = wilson(abs(low) * rows, rows, figure.confidence)
        why = f"{figure.end()} Wilson interval: {abs(low) * rows:g} of {rows} rows differ"
        return Fit(sign * (least if low > 0 else -most), why)

    return fit


def perplexity(pair: str, other: str) -> Callable[[Figure], Fit]:
    """Fit to the interval of a difference of perplexities, taken as a ratio to that of the second model."""

    def fit(figure: Figure) -> Fit:
        rows, _, high = _interval(figure, pair, "perplexity")
        second = figure.metrics[f"eval/{other}"]["perplexity"]
        limit = 1 + high / second
        return Fit(limit, f"{figure.end()} interval, taken as a ratio, on {rows} rows")

    return fit


def share(whole: Callable[[dict[str, Any]], float], of: str) -> Callable[[Figure], Fit]:
    """Fit to Wilson's interval of a share of counted things."""

    def fit(figure: Figure) -> Fit:
        count = round(whole(figure.metrics))
        if not count:
            raise click.ClickException(f"no {of} in this run")
        low, high = wilson(figure.value * count, count, figure.confidence)
        why = f"{figure.end()} Wilson interval: {figure.value * count:.0f} of {count} {of}"
        return Fit(low if figure.lower else high, why)

    return fit


def tenth(best: float) -> Callable[[Figure], Fit]:
    """Fit without an interval: the figure, and a tenth of its distance from the best one."""

    def fit(figure: Figure) -> Fit:
        slack = SLACK * abs(figure.value - best)
        if figure.lower:
            why = f"a tenth further from {best:g} than {figure.value:g}, as the metrics hold no interval"
            return Fit(figure.value - slack, why)
        return Fit(figure.value + slack, f"a tenth above {figure.value:g}, as the metrics hold no interval")

    return fit


def tenth_of_base(figure: Figure) -> Fit:
    """Fit a drop of the tasks' mean score without an interval: the figure, and a tenth of what base scores."""
    score = figure.metrics["eval/base"]["tasks_mean"]
    why = f"a tenth of base's {score:g} above {figure.value:g}, as the metrics hold no interval"
    return Fit(figure.value + SLACK * score, why)


def none_allowed(figure: Figure) -> Fit:
    """Allow none: each one is a mistake, whatever the data."""
    return Fit(0, "each is a mistake, whatever the data")


def _interval(figure: Figure, pair: str, score: str) -> tuple[int, float, float]:
    """Return rows, low and high from metrics/compare.json."""
    compared = figure.metrics["compare"][pair]
    found = compared[score]
    if found is None or found["low"] is None or found["high"] is None:
        raise click.ClickException(
            f"metrics/compare.json: no interval of {pair}.{score}; it takes two val rows with a question"
        )
    return compared["rows"], found["low"], found["high"]


def _fitting(model: str) -> Callable[[dict[str, Any]], float]:
    scores = f"eval/{model}"
    return lambda metrics: metrics[scores]["rows_answered"] * metrics[scores]["fitting_rate"]


RULES: dict[str, Callable[[Figure], Fit]] = {
    "rows_dropped_share": share(lambda metrics: metrics["preprocess"]["rows_read"], "rows read"),
    "rows_without_supervised_tokens": none_allowed,
    "rows_without_supervised_stop": none_allowed,
    "train_eval_loss": tenth(0),
    "merge_misplaced_weights": none_allowed,
    "merge_kept": tenth(1),
    "merge_kl_mean": tenth(0),
    "merge_top1_agreement": share(lambda metrics: metrics["merge"]["tokens"], "answer tokens"),
    "merged_exact_match_gain": difference("merged_base", "exact_match"),
    "merged_chrf_gain": difference("merged_base", "chrf"),
    "merged_perplexity_ratio": perplexity("merged_base", "base"),
    "merged_stop_rate": share(_fitting("merged"), "answers"),
    "merged_stop_rate_drop": difference("merged_base", "stop_rate"),
    "merged_general_perplexity_ratio": tenth(0),
    "merged_tasks_drop": tenth_of_base,
    "awq_exact_match_drop": difference("awq_merged", "exact_match"),
    "awq_exact_match_gain": difference("awq_base", "exact_match"),
    "awq_kept": tenth(1),
    "awq_base_perplexity_ratio": perplexity("awq_base", "base"),
    "awq_perplexity_ratio": perplexity("awq_merged", "merged"),
    "awq_size_ratio": tenth(0),
    "awq_stop_rate": share(_fitting("awq"), "answers"),
}
