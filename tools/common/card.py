"""Card: the model card of a run, with every figure and hash taken from what its commit holds."""

import json
from pathlib import Path
from typing import Any

from tools.common.run import Run

TEMPLATE = Path(__file__).with_name("card.md.jinja")
SCORED = ("base", "merged", "awq")


def render(run: Run) -> str:
    """Write the card of a run in the model hub's form: YAML in front, then Markdown."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"cell": cell, "flat": flat}
    metrics = run["metrics"]
    compared = metrics.get("compare", {})
    counts = {key: value for key, value in metrics["preprocess"].items() if key not in ("examples", "files")}
    body = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **run,
        compared=columns(compared),
        counts=flat(counts),
        limits=limits(run),
        models_scored=SCORED,
        pairs=sorted(compared, key=lambda pair: SCORED.index(pair.partition("_")[0])),  # merged_base, awq_merged
        passed=sum(verdict["passed"] for verdict in run["gates"].values()),
        scores=columns({name: metrics[f"eval/{name}"] for name in SCORED}),
        settings=settings(run),
    )
    return f"---\n{front(run)}---\n{body}"


def front(run: Run) -> str:
    """Give the YAML in front of the card, by which the hub finds models."""
    from huggingface_hub import ModelCardData

    params = params_of(run)
    imports = [data["import"] for data in run["data"] if data["import"]]
    # Only an import from the hub names a file of its source; the others came from an address or a disk.
    datasets = sorted({one["source"] for one in imports if "file" in one})
    facts = ModelCardData(
        base_model=run["base"]["id"] if params["base.source"] == "hub" else None,
        datasets=datasets or None,
        language=params.get("preprocess.languages") or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["awq", "compressed-tensors", "lockstep", params.get("train.method", "lora")],
    )
    return f"{facts.to_yaml()}\n"


def params_of(run: Run) -> dict[str, Any]:
    """Give the params that made the bytes, as dvc.lock has them."""
    return {key: value for stage in run["stages"].values() for key, value in stage["params"].items()}


def settings(run: Run) -> dict[str, Any]:
    """Give these params but the gates, which have a table of their own, and what the base model did not need."""
    params = params_of(run)
    params.pop("gates", None)
    if params["base.source"] == "hub":
        params.pop("base.tiny", None)
    return flat(params)


def limits(run: Run) -> list[str]:
    """Say what the model must not be trusted with, as far as its run tells."""
    metrics, gates = run["metrics"], run["gates"]
    scored, learnt = metrics["eval/awq"]["rows"], metrics["train"]["rows_train"]
    tasks = "".join(f", {task}" for task in sorted(metrics["eval/awq"].get("tasks") or {}))
    said = [
        f"Scored on {scored} rows like the {learnt} that it learnt{tasks}: nothing is known of how it answers "
        "anything else. Nobody has tested it for truth, safety or bias.",
        "What holds for the base model holds here, too: its licence, its gaps and its bias.",
    ]
    if params_of(run)["base.source"] == "tiny":
        said.append("Its base is the built-in model for trying the pipeline: it is of no use beyond that.")
    if findings := metrics["preprocess"].get("findings"):
        kinds = ", ".join(f"{kind} {number}" for kind, number in findings.items())
        said.append(f"Rows of its data hold what looks like secrets or personal data ({kinds}): it may repeat them.")
    if unmeasured := [name for name, verdict in gates.items() if verdict["value"] is None]:
        said.append(f"Not measured, as these rows cannot tell: {', '.join(unmeasured)}.")
    if failed := [name for name, verdict in gates.items() if not verdict["passed"]]:
        said.append(f"It failed {', '.join(failed)}: do not serve it.")
    return said


def columns(values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Turn figures by column into figures by row; a difference with its interval becomes one cell."""
    found: dict[str, dict[str, Any]] = {}
    for column, figures in values.items():
        for key, value in flat(figures, {"difference", "high", "low"}).items():
            if isinstance(value, dict):
                value = f"{cell(value['difference'])} [{cell(value['low'])}, {cell(value['high'])}]"
            found.setdefault(key, {})[column] = value
    return dict(sorted(found.items()))


def flat(values: dict[str, Any], leaf: set[str] | None = None) -> dict[str, Any]:
    """Give the values of nested dictionaries by dotted names; dictionaries with the keys `leaf` stay whole."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value.keys() != leaf:
            found |= {f"{key}.{inner}": one for inner, one in flat(value, leaf).items()}
        else:
            found[key] = value
    return found


def cell(value: Any) -> str:
    """Spell a value for a table as JSON does, so that it can be found in the metrics; a dash for nothing."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "text of several lines" if "\n" in text else text.replace("|", "\\|")
