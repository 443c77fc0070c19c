"""The text of the model card. The template card.md.jinja holds no figure: each comes from the run.

Names of files and columns, and words of rows, come from strangers: nothing in them is markup in the card.
"""

import html
from pathlib import Path
from typing import Any

from tools.common.model_facts import cell, flat, limits_of_use, params_of
from tools.common.recorded_run import Run

TEMPLATE = Path(__file__).with_name("card.md.jinja")
SCORED = ("base", "merged", "awq")


def render_card(run: Run) -> str:
    """Write the card of a run in the model hub's form: YAML in front, then Markdown."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"cell": lambda value: as_text(cell(value)), "code": as_code, "flat": flat}
    metrics = run["metrics"]
    compared = metrics.get("compare", {})
    counts = {key: value for key, value in metrics["preprocess"].items() if key not in ("examples", "files")}
    body = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **run,
        compared=by_row(compared),
        counts=flat(counts),
        limits=limits_of_use(run),
        models_scored=SCORED,
        # merged_base, awq_base, awq_merged
        pairs=sorted(compared, key=lambda pair: SCORED.index(pair.partition("_")[0])),
        passed=sum(verdict["passed"] for verdict in run["gates"].values()),
        scores=by_row({name: metrics[f"eval/{name}"] for name in SCORED}),
        settings=settings(run),
    )
    return f"---\n{front_matter(run)}---\n{body}"


def as_text(text: str) -> str:
    """Write a text so that Markdown and HTML take nothing in it for markup."""
    return html.escape(text, quote=False).replace("`", "\\`").replace("](", "]\\(")


def as_code(text: str) -> str:
    """Write a text for a code span, which a backtick would end, in a table, whose cells a bar would end."""
    return " ".join(text.split()).replace("`", "'").replace("|", "\\|")


def front_matter(run: Run) -> str:
    """Write the YAML in front of the card, by which the hub finds models."""
    from huggingface_hub import ModelCardData

    params = params_of(run)
    imports = [data["import"] for data in run["data"] if data["import"]]
    # Only an import from the hub names a file of its source; the others come from an address or a disk.
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


def settings(run: Run) -> dict[str, Any]:
    """Return the params of a run without the gates, which have their own table, and without unused ones of `base`."""
    params = params_of(run)
    params.pop("gates", None)
    for section in {"tiny", "gguf"} - {params["base.source"]}:
        params.pop(f"base.{section}", None)
    return flat(params)


def by_row(columns: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Turn figures by column into figures by row; a difference with its interval becomes one cell."""
    rows: dict[str, dict[str, Any]] = {}
    for column, figures in columns.items():
        for key, value in flat(figures, {"difference", "high", "low"}).items():
            if isinstance(value, dict):
                value = f"{cell(value['difference'])} [{cell(value['low'])}, {cell(value['high'])}]"
            rows.setdefault(key, {})[column] = value
    return dict(sorted(rows.items()))
