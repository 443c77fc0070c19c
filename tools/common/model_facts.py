"""Facts of a run as text, for the model card and the bill of materials: values, params, limits of use."""

import json
from typing import Any

from tools.common.recorded_run import Run


def flat(values: dict[str, Any], leaf: set[str] | None = None) -> dict[str, Any]:
    """Return the values of nested dictionaries by dotted keys; a dictionary with the keys `leaf` is a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value.keys() != leaf:
            found |= {f"{key}.{inner}": one for inner, one in flat(value, leaf).items()}
        else:
            found[key] = value
    return found


def cell(value: Any) -> str:
    """Write a value for a table as JSON does, so that it can be found in the metrics; None is a dash."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "text of several lines" if "\n" in text else text.replace("|", "\\|")


def params_of(run: Run) -> dict[str, Any]:
    """Return the params that the stages ran with, as dvc.lock has them."""
    return {key: value for stage in run["stages"].values() for key, value in stage["params"].items()}


def limits_of_use(run: Run) -> list[str]:
    """List what the model must not be trusted with, as far as its run shows."""
    metrics, gates = run["metrics"], run["gates"]
    scored, trained = metrics["eval/awq"]["rows"], metrics["train"]["rows_train"]
    tasks = "".join(f", {task}" for task in sorted(metrics["eval/awq"].get("tasks") or {}))
    limits = [
        f"Scored on {scored} rows like the {trained} that it is trained on{tasks}: nothing is known of how it "
        "answers anything else. Nobody has tested it for truth, safety or bias.",
        "The limits of the base model hold here, too: its licence, its gaps and its bias.",
    ]
    if params_of(run)["base.source"] == "tiny":
        limits.append("Its base is the built-in model for trying the pipeline: it is of no use beyond that.")
    if findings := metrics["preprocess"].get("findings"):
        kinds = ", ".join(f"{kind} {number}" for kind, number in findings.items())
        limits.append(f"Rows of its data seem to hold secrets or personal data ({kinds}): it may repeat them.")
    if unmeasured := [name for name, verdict in gates.items() if verdict["value"] is None]:
        limits.append(f"Not measured, as these rows cannot show it: {', '.join(unmeasured)}.")
    if failed := [name for name, verdict in gates.items() if not verdict["passed"]]:
        limits.append(f"It failed {', '.join(failed)}: do not serve it.")
    return limits
