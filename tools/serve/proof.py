"""Proof: whether a model has the bytes of dvc.lock, the pipeline is up to date, and every gate passed."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from stages.common import model_folder
from stages.report.gates import GATES
from tools.common import dvc_cache, repository
from tools.common.dvc_lock import DvcLock, read_lock
from tools.common.judged_run import load_judged, read_verdicts
from tools.common.stale_stages import describe_stale_stages


@dataclass(frozen=True)
class Model:
    """A model of the workspace or of a commit (`rev`). It is proven when `problems` is empty."""

    kind: str
    folder: Path
    rev: str | None
    md5: str
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name under which it is served; `make lineage NAME=...` finds its commit and data by it."""
        return f"lockstep-{self.kind}-{self.md5[:8]}{'-unproven' if self.problems else ''}"


def examine(kind: str, rev: str | None) -> Model:
    """Find a model, and everything that speaks against serving it.

    Args:
        kind: base, adapter, merged or awq.
        rev: a git revision; None: the workspace.

    Raises:
        click.ClickException: there is no such model.
    """
    if rev is not None:
        return _examine_revision(kind, rev)
    made = _recorded_md5(read_lock(None), kind)
    model_folder.require(Path("models", kind), "make repro")
    here = dvc_cache.folder_md5(Path("models", kind))
    stale = describe_stale_stages(
        ", or serve what is committed: `make serve REV=HEAD`"
    )  # first: DVC removes from its cache what was changed there, through a link
    problems = []
    if here != made:
        command = f"dvc checkout --force models/{kind}" if dvc_cache.cached_folder(made) else "make repro"
        problems.append(f"models/{kind}: its md5 is {here}, in dvc.lock {made}; run `{command}` to restore it")
    problems += [stale] if stale else []
    try:
        problems += _failed_gates(kind, read_verdicts(), "make gate")
    except click.ClickException as error:
        problems.append(error.message)
    return Model(kind, Path("models", kind), None, here, problems)


def examine_folder(folder: Path) -> Model:
    """Find the model in a folder, which may lie outside the pipeline."""
    if folder.parts[:-1] == ("models",):
        return examine(folder.name, None)
    model_folder.require(folder, "make repro")
    problem = f"{folder}: not a model of this pipeline; dvc.lock has no hash of it"
    return Model(folder.name, folder, None, dvc_cache.folder_md5(folder), [problem])


def _examine_revision(kind: str, rev: str) -> Model:
    """Judge a model by what was committed: dvc.lock, metrics and gates."""
    commit = repository.resolve(rev)
    found = load_judged(repository.recorded(commit))
    made = _recorded_md5(read_lock(commit), kind)
    problems = []
    if found["differs"]:
        paths = ", ".join(found["differs"])
        problems.append(f"{paths} at {rev}: the bytes differ from dvc.lock there; use another revision")
    if not found["gates"]:
        problems.append(f"metrics/gates.json at {rev}: no verdicts; use another revision")
    failed = _failed_gates(kind, found["gates"], f"git show {shlex.quote(rev)}:./metrics/gates.json")
    return Model(kind, Path("models", kind), commit, made, [*problems, *failed])


def _recorded_md5(lock: DvcLock, kind: str) -> str:
    """Return the md5 of a model in dvc.lock."""
    path = f"models/{kind}"
    for stage in lock.stages:
        if known := lock.entry(stage, "outs", path):
            return str(known["md5"])
    if lock.rev:
        raise click.ClickException(f"dvc.lock at {lock.rev}: {path} is not in it; use a revision that has it")
    raise click.ClickException(f"dvc.lock: {path} is not in it; run `make repro` first")


def _failed_gates(kind: str, verdicts: dict[str, dict[str, Any]], command: str) -> Iterator[str]:
    """List the gates that failed, in one line. Those of awq say nothing of the other models, which come before it."""
    known = [name for name in [*GATES, *verdicts] if kind == "awq" or not name.startswith("awq_")]
    if failed := [name for name in known if name in verdicts and not verdicts[name]["passed"]]:
        yield f"gates failed: {', '.join(dict.fromkeys(failed))}; `{command}` shows the values"
