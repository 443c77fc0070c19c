"""Verdicts: compare the value of each gate with its limit.

`make gate` reads the verdicts and refuses models that failed.
"""

from typing import Any

import click

from stages.common.params import Section
from stages.report.figures import Metrics
from stages.report.gates import GATES

# Where two models score 0.
ZEROS = "0 - 0: both models score 0, which shows neither a gain nor a loss"
# Of a gate whose limit is null.
UNJUDGED: dict[str, Any] = dict.fromkeys(("limit", "bound", "margin")) | {
    "passed": True,
    "reason": "null in params.yaml",
}


def measure(name: str, metrics: Metrics) -> float | None:
    """Compute the value of a gate.

    Raises:
        click.ClickException: the metrics lack a figure that it needs, or one is no number.
    """
    try:
        value = GATES[name].value(metrics)
    except KeyError as error:
        raise click.ClickException(
            f"metrics: no `{error.args[0]}`, which the gate {name} needs; run `dvc repro` first"
        ) from None
    except TypeError:
        value = False
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise click.ClickException(f"metrics: what the gate {name} needs is no number; run `dvc repro` first")
    return value


def judge(metrics: Metrics, limits: Section) -> dict[str, dict[str, Any]]:
    """Compute the verdict of every gate.

    Args:
        metrics: contents of METRICS by name.
        limits: a `GatesParams`.

    Returns:
        For each gate the `verdict_of` its value. A gate without a limit is not judged, and passes. A gate that is
        relative to a revision has `not_worse_than`; it fails until a tool, which can read git, has judged it.

    Raises:
        click.ClickException: see `measure`.
    """
    verdicts = {}
    for name in GATES:
        limit, value = getattr(limits, name), measure(name, metrics)
        problem = cannot_be_judged(name, metrics, value)
        if limit is None:
            verdicts[name] = UNJUDGED | {"value": value}
        elif limit.not_worse_than is not None:
            verdicts[name] = verdict_of(value, None, GATES[name].better, limit.reason, problem)
            verdicts[name] |= {"not_worse_than": limit.not_worse_than}
        else:
            bound, number = ("min", limit.min) if limit.min is not None else ("max", limit.max)
            verdicts[name] = verdict_of(value, number, bound, limit.reason, problem)
    return verdicts


def cannot_be_judged(name: str, metrics: Metrics, value: float | None) -> str:
    """Say why a value proves nothing, whatever the limit, and what to do; "" where it does."""
    if value is None:
        return GATES[name].unmeasured
    return f"{ZEROS}; see {GATES[name].hint}" if GATES[name].is_empty(metrics) else ""


def verdict_of(value: float | None, limit: float | None, bound: str, reason: str, problem: str) -> dict[str, Any]:
    """Judge one value.

    Returns:
        `value`, `limit`, `bound` (min or max), `margin`, `passed` and `reason`, and `problem` where there is one: a
        value that cannot be judged does not pass. The margin is the distance from value to limit, below 0 where the
        gate failed, None without one of the two.
    """
    # Rounded, as 1.05 - 1.01 is not 0.04 in binary; metrics have 6 digits, so no failure can round to 0.
    margin = None if value is None or limit is None else round(value - limit if bound == "min" else limit - value, 12)
    verdict = {
        "value": value,
        "limit": limit,
        "bound": bound,
        "margin": margin,
        "passed": margin is not None and margin >= 0 and not problem,
        "reason": reason,
    }
    return verdict | ({"problem": problem} if problem else {})
