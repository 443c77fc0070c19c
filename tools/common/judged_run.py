"""Judged run: the verdicts of a run, also of gates that are relative to the run of another revision.

The report stage writes the verdicts. It reads no git, so a gate with `not_worse_than` is judged here, for every
command that shows or needs verdicts.
"""

import functools
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from stages.common import files
from stages.report.figures import METRICS
from stages.report.gates import GATES
from stages.report.verdicts import verdict_of
from tools.common import repository
from tools.common.fitted_limits import fit_limit
from tools.common.recorded_run import Run, load_run, load_workspace, require_one_run

FILE = Path("metrics/gates.json")
# What two runs must share so that a figure of one says something of the other: deps of eval@base, and params.
BASE = ("models/base",)
ANSWERED = (*BASE, "data/prepared/val.jsonl", "eval.rows", "eval.answer", "eval.max_new_tokens")
LIKELIHOOD = (*BASE, "data/prepared/val.arrow", "eval.rows")
AGREEMENT = (*BASE, "data/prepared/val.arrow", "merge.rows")
GENERAL = (*BASE, "data/general/passages.jsonl")
TASKS = (*BASE, "data/tasks", "eval.tasks", "eval.task_rows", "eval.task_chat_template")
SHARED: dict[str, tuple[str, ...]] = {
    "rows_dropped_share": (),
    "rows_without_supervised_tokens": (),
    "rows_without_supervised_stop": (),
    "train_eval_loss": LIKELIHOOD,
    "merge_misplaced_weights": (),
    "merge_kept": AGREEMENT,
    "merge_kl_mean": AGREEMENT,
    "merge_top1_agreement": AGREEMENT,
    "merged_exact_match_gain": ANSWERED,
    "merged_chrf_gain": ANSWERED,
    "merged_perplexity_ratio": LIKELIHOOD,
    "merged_stop_rate": ANSWERED,
    "merged_stop_rate_drop": ANSWERED,
    "merged_general_perplexity_ratio": GENERAL,
    "merged_tasks_drop": TASKS,
    "awq_exact_match_drop": ANSWERED,
    "awq_exact_match_gain": ANSWERED,
    "awq_kept": AGREEMENT,
    "awq_base_perplexity_ratio": LIKELIHOOD,
    "awq_perplexity_ratio": LIKELIHOOD,
    "awq_size_ratio": BASE,
    "awq_stop_rate": ANSWERED,
}


class Verdict(BaseModel):
    """One entry of metrics/gates.json."""

    model_config = ConfigDict(strict=True, extra="forbid")

    value: float | None
    limit: float | None
    bound: Literal["min", "max"] | None
    margin: float | None
    passed: bool
    reason: str
    problem: str = ""
    not_worse_than: str = ""


def read_verdicts() -> dict[str, dict[str, Any]]:
    """Read the verdicts of the workspace, in the order of the gates, and judge those that are relative to a revision.

    Raises:
        click.ClickException: metrics/gates.json is missing or damaged, or has other gates than this code.
    """
    found = files.parse_json(files.read_bytes(FILE, "make repro"), str(FILE), "`make repro` writes it again")
    if different := sorted(found.keys() ^ GATES.keys()):
        raise click.ClickException(f"{FILE}: not the gates of this code ({', '.join(different)}); run `make repro`")
    try:
        TypeAdapter(dict[str, Verdict]).validate_python(found)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise click.ClickException(f"{FILE}: {place}: {problem['msg']}; `make repro` writes it again") from None
    verdicts = {name: found[name] for name in GATES}
    if any("not_worse_than" in verdict for verdict in verdicts.values()):
        verdicts = judge_relative(load_workspace((*METRICS, "compare")) | {"gates": verdicts})
    return verdicts


def load_judged(commit: repository.Commit) -> Run:
    """Read what a commit says of its run, as `load_run`, with gates that are relative to a revision judged."""
    run = load_run(commit)
    return run | {"gates": judge_relative(run)}


def judge_relative(run: Run) -> dict[str, dict[str, Any]]:
    """Judge the gates of a run that are relative to a revision; the other verdicts stay as they are.

    Args:
        run: its `stages` and its `gates`.

    Returns:
        All verdicts. A relative one has the limit that fits the other run. Where the other run cannot be compared
        with, the gate does not pass, and `problem` says why.
    """
    accepted = functools.cache(_load_accepted)
    verdicts = {}
    for name, verdict in run["gates"].items():
        rev, limit, problem = verdict.get("not_worse_than"), None, verdict.get("problem", "")
        if not rev:
            verdicts[name] = verdict
            continue
        reason = f"not worse than {rev}: {verdict['reason']}"
        try:
            other = accepted(rev)
            if different := _different(name, run, other):
                raise click.ClickException(f"another {', '.join(different)} than here, so it measures something else")
            limit, why = fit_limit(name, other)
            reason = f"not worse than {rev} ({other['commit']['hash'][:8]}): {why}; {verdict['reason']}"
        except click.ClickException as error:
            # What it advises is for the workspace.
            found = error.message.removeprefix(f"{rev}: ").partition("; ")[0]
            problem = problem or f"{rev}: {found}; name another revision, or set min or max"
        judged = verdict_of(verdict["value"], limit, verdict["bound"], reason, problem)
        verdicts[name] = judged | {"not_worse_than": rev}
    return verdicts


def _load_accepted(rev: str) -> Run:
    run = load_run(repository.recorded(rev))
    require_one_run(run)
    return run


def _different(name: str, run: Run, other: Run) -> list[str]:
    """List what a gate's figures of two runs do not share, but must so that one says something of the other."""
    ours, theirs = _shared(name, run), _shared(name, other)
    return [key for key in SHARED[name] if ours[key] != theirs[key]]


def _shared(name: str, run: Run) -> dict[str, Any]:
    known = {dep["path"]: dep.get("md5") for dep in run["stages"].get("eval@base", {"deps": []})["deps"]}
    for stage in run["stages"].values():
        known |= stage["params"]
    return {key: known.get(key) for key in SHARED[name]}
