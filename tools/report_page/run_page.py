"""Run page: what one run read, measured and made, as the values that templates/run.html shows."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.common.scores import MODELS
from stages.compare.significance import Bootstrap, difference
from stages.report import fingerprints
from stages.report.gates import GATES
from tools.common import dvc_cache
from tools.common.model_facts import flat, limits_of_use, params_of
from tools.common.recorded_run import Run
from tools.report_page.accepted_run import find_accepted, find_changes
from tools.report_page.charts import bar_chart, interval_chart, line_chart
from tools.report_page.lineage_drawing import draw_lineage

SHARES = ("exact_match", "chrf", "rouge_l", "stop_rate")  # from 0 to 1, and of each row
SCORES = (*SHARES, "perplexity", "general_perplexity", "tasks_mean")
ROW_KEYS = (*SHARES[:-1], "stopped")  # of SHARES in metrics/eval/answers.jsonl
CURVES = "metrics/train/plots/metrics"
ANSWERS = "metrics/eval/answers.jsonl"
USUAL = {"resamples": 10_000, "confidence": 0.95, "seed": 7}  # of runs before the section compare
OLDER = {"margin": None, "reason": ""}  # of a gate, which older runs do not have
SAMPLES = 5  # answers of each kind


def describe(run: Run, files: dict[str, bytes], here: bool) -> dict[str, Any]:
    """Return the values of the page.

    Args:
        run: what its files say of it.
        files: content of its files by path.
        here: whether the run is the one in the workspace, so that the logs of this machine may be its own.
    """
    accepted = find_accepted(run)
    answers = read_answers(run)
    settings = params_of(run)
    scores = score_table(run, answers)
    gates = [
        {
            "name": name,
            "hint": GATES[name].hint if name in GATES else "",
            "word": word_of(verdict),
            **OLDER,
            **verdict,
        }
        for name, verdict in run["gates"].items()
    ]
    return {
        **run,
        "accepted": accepted,
        "answers": choose_samples(answers, str(settings.get("compare.score", "exact_match"))),
        "answers_found": bool(answers),
        "changes": find_changes(run, accepted) if accepted else {},
        "charts": [chart for chart in curves(files) if chart],
        "confidence": settings.get("compare.confidence", 0.95),
        "drawings": [draw_lineage(run, downward=downward) for downward in (False, True)],
        "failed": [gate["name"] for gate in gates if not gate["passed"]],
        "intervals": interval_chart("Scores from 0 to 1", {key: scores[key] for key in SHARES if key in scores}),
        "judged": gates,
        "lengths": bar_chart("Rows by length in tokens", counts(files, "metrics/lengths.csv")),
        "limits": limits_of_use(run) if has_scores(run) else [],
        "models_scored": [model for model in MODELS if f"eval/{model}" in run["metrics"]],
        "outcomes": outcomes(run),
        "pairs": pairs(run),
        "scores": scores,
        "settings": flat(settings),
        "times": stage_times(run) if here else {},
        "versions": versions(run),
    }


def has_scores(run: Run) -> bool:
    """Whether a run has what its limits of use are told from."""
    return {"eval/awq", "train", "preprocess"} <= run["metrics"].keys()


def word_of(verdict: dict[str, Any]) -> str:
    """Return a verdict in words."""
    if not verdict["passed"]:
        return "cannot be judged" if verdict.get("problem") else "failed"
    return "not judged" if verdict["limit"] is None else "not measured" if verdict["value"] is None else "passed"


def read_answers(run: Run) -> list[dict[str, Any]]:
    """Read the run's answers side by side, from the workspace or DVC's cache; none where neither has those."""
    outs = {out["path"]: out["md5"] for stage in run["stages"].values() for out in stage["outs"]}
    if not (md5 := outs.get(ANSWERS)):
        return []
    path = Path(ANSWERS)
    if not path.exists() or fingerprints.facts(path)["md5"] != md5:
        path = dvc_cache.cached_file(md5) or Path()
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [row for line in text.split("\n") if line for row in [json.loads(line)] if "question" in row]


def score_table(run: Run, answers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, for each score and model, `value` and the bounds `low` and `high` of its bootstrap interval.

    The bounds are None where the answers are missing, and for scores that are not means over the answers.
    """
    params = params_of(run)
    bootstrap = Bootstrap(*(params.get(f"compare.{key}", usual) for key, usual in USUAL.items()))
    found: dict[str, dict[str, Any]] = {}
    for model in MODELS:
        metrics = run["metrics"].get(f"eval/{model}", {})
        for score in SCORES:
            if (value := metrics.get(score)) is not None:
                found.setdefault(score, {})[model] = {"value": value, "low": None, "high": None}
        for score, key in zip(SHARES, ROW_KEYS, strict=True):
            values = [float(row[model][key]) for row in answers if key in row[model]]
            if values and score in found and model in found[score]:
                bounds = difference(lambda one, axis=-1: one.mean(axis), [values], bootstrap)
                found[score][model] |= {key: bounds[key] for key in ("low", "high")} if bounds else {}
    return {score: found[score] for score in SCORES if score in found}


def pairs(run: Run) -> dict[str, dict[str, Any]]:
    """Return the pairs of models that compare judged, in the order of their scores."""
    found = run["metrics"].get("compare", {})
    return {name: found[name] for name in ("merged_base", "awq_merged", "awq_base") if name in found}


def outcomes(run: Run) -> list[tuple[str, int, str]]:
    """Return the ways of the rows: what happened, how many rows, and whether they are read, dropped or kept."""
    if not (data := run["metrics"].get("preprocess")):
        return []
    dropped = sorted(data["rows_dropped"].items(), key=lambda pair: -pair[1])
    return [
        ("read", data["rows_read"], "read"),
        *((f"dropped: {reason.replace('_', ' ')}", count, "dropped") for reason, count in dropped),
        ("kept", data["rows_kept"], "kept"),
        ("train", data["rows_train"], "split"),
        ("val", data["rows_val"], "split"),
        ("calibration, of train", data["rows_calibration"], "split"),
    ]


def curves(files: dict[str, bytes]) -> Iterator[dict[str, Any] | None]:
    """Yield the charts of the training."""
    losses = {name: curve(files, key) for name, key in (("train", "loss"), ("val", "eval_loss"))}
    yield line_chart("Loss, nats per token", losses, logarithmic=True)
    yield line_chart("Learning rate", {"learning rate": curve(files, "learning_rate")})
    yield line_chart("Norm of the gradient", {"norm": curve(files, "grad_norm")})


def curve(files: dict[str, bytes], name: str) -> list[tuple[int, float]]:
    """Return step and value of each point of a curve."""
    return [(int(row["step"]), float(row[name])) for row in table(files, f"{CURVES}/{name}.tsv", "\t")]


def counts(files: dict[str, bytes], path: str) -> list[tuple[str, int]]:
    """Return name and count of each line of a CSV table of counts, without the empty ones in front."""
    found = [(next(iter(row.values())), int(row["rows"])) for row in table(files, path, ",")]
    first = next((place for place, (_, count) in enumerate(found) if count), 0)
    return found[first:]


def table(files: dict[str, bytes], path: str, delimiter: str) -> list[dict[str, str]]:
    """Read a table of the run; empty where it has none."""
    return list(csv.DictReader(io.StringIO(files.get(path, b"").decode("utf-8")), delimiter=delimiter))


def stage_times(run: Run) -> dict[str, dict[str, Any]]:
    """Return the facts of the newest run of each stage in logs/ that ended well, in the order of the stages."""
    found: dict[str, dict[str, Any]] = {}
    for path in Path("logs").glob("*/*/runtime.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        name = path.parent.name
        if not facts["exit_code"] and facts["started"] > found.get(name, {"started": ""})["started"]:
            found[name] = facts
    return {name: found[name] for name in run["stages"] if name in found}


def choose_samples(rows: list[dict[str, Any]], score: str) -> dict[str, list[dict[str, Any]]]:
    """Return the first rows of each kind: what training won, what it did not, and what quantisation changed."""

    def value(row: dict[str, Any], model: str) -> float:
        return float(row[model][score])

    kinds = {
        "merged better than base": [row for row in rows if value(row, "merged") > value(row, "base")],
        "merged worse than base": [row for row in rows if value(row, "merged") < value(row, "base")],
        "awq better than merged": [row for row in rows if value(row, "awq") > value(row, "merged")],
        "awq worse than merged": [row for row in rows if value(row, "awq") < value(row, "merged")],
        "no model right": [row for row in rows if not any(row[model]["exact_match"] for model in MODELS)],
    }
    return {f"{kind}: {len(found)} of {len(rows)} rows": found[:SAMPLES] for kind, found in kinds.items() if found}


def versions(run: Run) -> dict[str, str]:
    """Return the version of each locked library."""
    lines = (line for entry in run["environment"] for line in entry["libraries"] if "==" in line)
    return {name: version.partition(" ")[0] for name, _, version in (line.partition("==") for line in lines)}
