"""Stale: which stages `dvc repro` would run, which it would restore from DVC's cache, and why."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import click

RUNS, RESTORED, CACHED = "runs", "restored", "cached"
SHOWN = 3  # names in a reason; the rest is counted


class Action(NamedTuple):
    """What `dvc repro` does with a stage.

    Attributes:
        does: RUNS, RESTORED (its outs come from DVC's cache), or CACHED (there is nothing to do).
        reason: what changed; of a restored stage, what is restored.
        changed: whether its outs may get other bytes than dvc.lock has.
    """

    does: str
    reason: str
    changed: bool


def find_actions() -> dict[str, Action]:
    """Ask DVC for the state of every stage, in the order in which they run.

    A stage runs after its inputs: where an earlier one runs with changed inputs, this one is taken to run, too,
    although the earlier one may give the same bytes again.

    Raises:
        click.ClickException: dvc.yaml or dvc.lock cannot be read, or another DVC command runs.
    """
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]
    from dvc.repo import Repo  # type: ignore[import-untyped]

    try:
        with Repo(".") as repo:
            status = repo.status()
            found: dict[str, Action] = {}
            makers: dict[str, str] = {}
            for stage in ordered(repo):
                found[stage.addressing] = judge(stage, status.get(stage.addressing, []), found, makers, repo)
                makers |= {str(out): stage.addressing for out in stage.outs}
            return found
    except DvcException as error:
        problem = " ".join(str(error).split())
        raise click.ClickException(f"dvc status: {problem}; `make doctor` may know more") from None


def ordered(repo: Any) -> Iterator[Any]:
    """Yield the stages of dvc.yaml so that each comes after those whose outs it reads."""
    import networkx  # type: ignore[import-untyped]

    order = {stage.addressing: place for place, stage in enumerate(repo.index.stages)}
    graph = repo.index.graph.reverse()  # DVC's edges lead from a stage to those that it needs
    for stage in networkx.lexicographical_topological_sort(graph, key=lambda stage: order[stage.addressing]):
        if stage.cmd:
            yield stage


def judge(stage: Any, status: list[Any], before: dict[str, Action], makers: dict[str, str], repo: Any) -> Action:
    """Say what happens to one stage.

    Args:
        stage: DVC's stage.
        status: its entry in `dvc status`.
        before: the actions of earlier stages.
        makers: the stage that writes each out, by its path.
        repo: DVC's repository.
    """
    entries = [entry for entry in status if isinstance(entry, dict)]
    deps = {path: how for entry in entries for path, how in entry.get("changed deps", {}).items()}
    outs = {path: how for entry in entries for path, how in entry.get("changed outs", {}).items()}
    follows = [makers[str(dep)] for dep in stage.deps if str(dep) in makers and before[makers[str(dep)]].changed]
    # What an earlier stage writes is missing, or of another run, until that stage has run.
    own = {path: how for path, how in deps.items() if path not in makers}
    own |= {path: how for path, how in deps.items() if path in makers and before[makers[path]].does == CACHED}
    reasons = [*described(own)]
    if any(isinstance(entry, str) and entry == "changed command" for entry in status):
        reasons.append("cmd changed")
    if any(entry == "always changed" for entry in status):
        reasons.append("it always runs")
    if reasons:
        if not follows and in_run_cache(stage, repo):
            return Action(RESTORED, f"an earlier run of the same inputs ({'; '.join(reasons)})", True)
        return Action(RUNS, "; ".join(reasons), True)
    if follows:
        return Action(RUNS, f"follows {', '.join(dict.fromkeys(follows))}", True)
    lost = [path for path, how in outs.items() if how == "not in cache"]
    if lost:
        return Action(RUNS, f"not in DVC's cache: {shortened(lost)}", False)
    if outs:
        return Action(RESTORED, f"from DVC's cache: {shortened(list(outs))}", False)
    return Action(CACHED, "nothing changed", False)


def described(changes: dict[str, Any]) -> Iterator[str]:
    """Yield what changed among deps and params."""
    for path, how in changes.items():
        if isinstance(how, dict):  # params: the keys
            yield f"{path}: {shortened(list(how))}"
    by_kind: dict[str, list[str]] = {}
    for path, how in changes.items():
        if isinstance(how, str):
            by_kind.setdefault(how, []).append(path)
    for how, paths in by_kind.items():
        yield f"{how}: {shortened(paths)}"


def shortened(names: list[str]) -> str:
    """List the first names, and count the others."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def in_run_cache(stage: Any, repo: Any) -> bool:
    """Whether DVC kept a run of the stage with the same inputs, and its outs. It needs all inputs to be there."""
    from dvc.exceptions import DvcException

    try:
        stage.save_deps()  # in memory: their hashes of now
        # Not `restore(dry=True)`, which takes those of dvc.lock.
        kept = repo.stage_cache._load(stage)
        return bool(kept) and repo.stage_cache._create_stage(kept, wdir=stage.wdir).outs_cached()
    except (DvcException, OSError):
        return False
