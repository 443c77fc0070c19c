"""Figures: what the gates compute from the metrics; None where these rows, or this run, cannot show it."""

from typing import Any

from stages.common import drop_reasons

# The files below metrics/ that the gates read, without `.json`.
METRICS = ("preprocess", "train", "merge", "awq", "eval/base", "eval/merged", "eval/awq")
Metrics = dict[str, Any]


def difference(one: float | None, other: float | None) -> float | None:
    """Subtract; None where one value was not measured."""
    return None if one is None or other is None else round(one - other, 6)


def ratio(one: float | None, other: float | None) -> float | None:
    """Divide; None where one value was not measured, or where there is nothing to divide by."""
    return None if one is None or not other else round(one / other, 6)


def gain(metrics: Metrics, model: str, score: str) -> float | None:
    """Return how much higher a model's score is than that of base."""
    return difference(metrics[f"eval/{model}"][score], metrics["eval/base"][score])


def both_zero(metrics: Metrics, one: str, other: str, score: str) -> bool:
    """Whether a score is 0 for two models: then 0 - 0 is no gain, and no loss either."""
    return metrics[f"eval/{one}"][score] == metrics[f"eval/{other}"][score] == 0


def stop_rate(metrics: Metrics, model: str) -> float | None:
    """Return the share of answers that end, of those that can: references that fit in eval.max_new_tokens."""
    scores = metrics[f"eval/{model}"]
    found = ratio(scores["stop_rate"], scores["fitting_rate"])
    return None if found is None else min(found, 1.0)


def lost_share(data: dict[str, Any]) -> float | None:
    """Return the share of rows that were dropped though the params do not ask for it; None where none was read."""
    lost = sum(count for reason, count in data["rows_dropped"].items() if reason not in drop_reasons.WANTED)
    return ratio(lost, data["rows_read"])
