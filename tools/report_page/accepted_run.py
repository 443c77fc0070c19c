"""Accepted run: the last earlier run whose gates all passed, and what a run changes against it."""

from typing import Any

from tools.common import repository
from tools.common.judged_run import load_judged
from tools.common.model_facts import flat, params_of
from tools.common.recorded_run import Run

SCORES = ("train", "merge", "awq", "eval/base", "eval/merged", "eval/awq")


def find_accepted(run: Run) -> Run | None:
    """Return the newest earlier run of which every gate passed, if there is one.

    Args:
        run: from `load_judged` or `describe_run`; without a commit of its own, it comes after those of HEAD.
    """
    commit = run["commit"]["hash"]
    head = repository.Commit(commit) if commit else repository.resolve("HEAD")
    for earlier in repository.run_commits(head):
        if earlier == commit:
            continue
        found = load_judged(earlier)
        accepted = found["gates"] and all(verdict["passed"] for verdict in found["gates"].values())
        if accepted and found["stages"] != run["stages"]:
            return found
    return None


def find_changes(run: Run, accepted: Run) -> dict[str, list[tuple[str, Any, Any]]]:
    """Return what differs between two runs, by kind: name, what it was, what it is; None where it was or is not."""
    versions = [
        dict(line.partition("==")[::2] for entry in one["environment"] for line in entry["libraries"] if "==" in line)
        for one in (accepted, run)
    ]
    rows = [
        {"base": f"{one['base'].get('id')} at {one['base'].get('revision', '')[:12]}"}
        | {entry["path"]: f"{entry['rows_read']} rows, sha256 {entry['sha256'][:12]}" for entry in one["data"]}
        for one in (accepted, run)
    ]
    return {
        "settings": _differences(*(flat(params_of(one)) for one in (accepted, run))),
        "rows and base model": _differences(*rows),
        "libraries": _differences(*versions),
        "code": _differences(*(_code(one) for one in (accepted, run))),
        "measured": _differences(
            *(flat({name: one["metrics"].get(name, {}) for name in SCORES}) for one in (accepted, run))
        ),
    }


def _differences(was: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    names = sorted(was.keys() | now.keys())
    return [(name, was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name)]


def _code(run: Run) -> dict[str, str]:
    """Return the short hash of each folder and module of code that a stage reads."""
    deps = [dep for stage in run["stages"].values() for dep in stage["deps"]]
    return {dep["path"]: dep["md5"][:8] for dep in deps if dep["path"].startswith("stages")}
