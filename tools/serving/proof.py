"""Proof: which bytes a model has, whether the pipeline made them as dvc.lock says, and whether the gates passed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from stages.common import folders
from stages.common.gates import GATES
from tools.common import artefact, repository, run, version


@dataclass(frozen=True)
class Model:
    """One of models/ in the workspace, or as a git revision has it; `doubts` say why it may not be served."""

    kind: str
    folder: Path
    rev: str | None
    md5: str
    doubts: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name under which it is served: `make lineage NAME=...` leads from there to the commit and the data."""
        return f"lockstep-{self.kind}-{self.md5[:8]}{'-unproven' if self.doubts else ''}"


def examine(kind: str, rev: str | None) -> Model:
    """Find a model, and every doubt about it.

    Args:
        kind: base, adapter, merged or awq.
        rev: a git revision; None: the workspace.

    Raises:
        click.ClickException: there is no such model.
    """
    if rev is not None:
        return _of_revision(kind, rev)
    made = _recorded(version.load(None), kind)
    folders.require(Path("models", kind), "make repro")
    here = artefact.of_model(kind)
    stale = list(_staleness())  # DVC throws out of its cache what was changed there, through a link
    doubts = []
    if here.md5 != made:
        text = f"models/{kind}: not the bytes of dvc.lock, which has md5 {made}, but {here.md5}"
        way = f"dvc checkout --force models/{kind}" if artefact.cached(made) else "make repro"
        doubts.append(f"{text}; `{way}` brings those back")
    return Model(kind, Path("models", kind), None, here.md5, [*doubts, *stale, *_failures(_verdicts(), "make gate")])


def examine_folder(folder: Path) -> Model:
    """Find the model in a folder, which may be none of the pipeline's."""
    if folder.parts[:-1] == ("models",):
        return examine(folder.name, None)
    folders.require(folder, "make repro")
    doubt = f"{folder}: no part of this pipeline, and dvc.lock knows nothing of it"
    return Model(folder.name, folder, None, artefact.of_model(str(folder)).md5, [doubt])


def _of_revision(kind: str, rev: str) -> Model:
    found = run.load(repository.recorded(rev))
    made = _recorded(version.load(rev), kind)
    doubts = []
    if found["differs"]:
        doubts.append(f"{', '.join(found['differs'])} at {rev}: not what dvc.lock there says; name another revision")
    if not found["gates"]:
        doubts.append(f"metrics/gates.json at {rev}: no verdict; name another revision")
    return Model(
        kind,
        Path("models", kind),
        rev,
        made,
        [*doubts, *_failures(found["gates"], f"git show {rev}:metrics/gates.json")],
    )


def _recorded(lock: version.Version, kind: str) -> str:
    """Give the md5 of a model in dvc.lock."""
    path = f"models/{kind}"
    for stage in lock.lock.get("stages", {}):
        if known := lock.entry(stage, "outs", path):
            return str(known["md5"])
    if lock.rev:
        raise click.ClickException(f"dvc.lock at {lock.rev}: no {path} in it; name a revision that has one")
    raise click.ClickException(f"dvc.lock: no {path} in it; run `make repro` first")


def _staleness() -> Iterator[str]:
    """Tell which stages would run again, and why; DVC itself is asked, as it remembers the hashes of large files."""
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise click.ClickException(f"dvc status: {asked.stderr.strip()}")
    stages = json.loads(asked.stdout)
    if stages:
        reasons = (f"{stage} ({', '.join(dict.fromkeys(_causes(stages[stage])))})" for stage in sorted(stages))
        yield f"the pipeline is stale: {'; '.join(reasons)}; run `make repro`"


def _causes(changes: list[str | dict[str, dict[str, str]]]) -> Iterator[str]:
    for change in changes:
        if isinstance(change, str):
            yield change
            continue
        for entries in change.values():
            for path, state in entries.items():
                yield f"params {', '.join(sorted(state))}" if isinstance(state, dict) else f"{path} {state}"


def _verdicts() -> dict[str, dict[str, bool]]:
    path = Path("metrics/gates.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _failures(verdicts: dict[str, dict[str, bool]], command: str) -> Iterator[str]:
    """Name the gates that failed."""
    if failed := [name for name in [*GATES, *verdicts] if name in verdicts and not verdicts[name]["passed"]]:
        yield f"gates failed: {', '.join(dict.fromkeys(failed))}; `{command}` says more"
