"""dvc.lock of the workspace or of a git revision, and where the prepared files lie that it names."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from stages.common import files
from stages.common.params import parse_yaml
from stages.report import fingerprints
from tools.common import dvc_cache, repository


@dataclass(frozen=True)
class DvcLock:
    """The hashes of a run.

    Attributes:
        rev: a git revision; None for the workspace.
        stages: what each stage read and wrote, as dvc.lock has it.
    """

    rev: str | None
    stages: dict[str, Any]

    def path(self, name: str) -> Path:
        """Find the file that holds an out of preprocess: in the workspace, or for a revision in DVC's cache.

        Raises:
            click.ClickException: it is missing; the message says how to get it.
        """
        if self.rev is None:
            files.require(Path(name), "dvc repro")
            return Path(name)
        md5 = self.entry("preprocess", "outs", name).get("md5")
        if md5 is None:
            raise click.ClickException(f"dvc.lock at {self.rev}: {name} is not in it; name a revision that has it")
        if place := dvc_cache.cached_file(md5):
            return place
        # Not `dvc fetch --all-commits`: with it DVC resolves a relative remote against the wrong folder.
        fetch = f"git checkout {shlex.quote(self.rev)} && dvc fetch preprocess && git checkout -"
        raise click.ClickException(f"{name} at {self.rev}: not in the DVC cache; run `{fetch}` first")

    def entry(self, stage: str, kind: str, start: str) -> dict[str, Any]:
        """Return the first dep or out (`kind`: deps, outs) of a stage whose path starts with a text, else {}."""
        entries = self.stages.get(stage, {}).get(kind, [])
        return next((entry for entry in entries if entry["path"].startswith(start)), {})

    def used(self, stage: str, start: str, maker: str) -> bool:
        """Whether a stage last ran on the bytes that the stage `maker` last wrote."""
        dep = self.entry(stage, "deps", start)
        return bool(dep) and dep["md5"] == self.entry(maker, "outs", dep["path"]).get("md5")

    def holds(self, name: str) -> bool:
        """Whether a file has the bytes that preprocess wrote, by dvc.lock."""
        return fingerprints.facts(self.path(name))["md5"] == self.entry("preprocess", "outs", name).get("md5")


def read_lock(rev: str | None) -> DvcLock:
    """Read dvc.lock of a git revision, or with None of the workspace; without a dvc.lock there are no stages.

    Raises:
        click.ClickException: there is no such revision, it has no dvc.lock, or see `parse_lock`.
    """
    path = Path("dvc.lock")
    if rev is not None:
        text = repository.show_file(repository.resolve(rev), path.name)
        return DvcLock(rev, parse_lock(text.encode(), f"dvc.lock at {rev}"))
    return DvcLock(rev, parse_lock(files.read_bytes(path, "make repro"), path.name) if path.exists() else {})


def parse_lock(content: bytes, name: str) -> dict[str, Any]:
    """Parse a dvc.lock, and return its stages.

    Args:
        content: the file.
        name: its name, for messages.

    Raises:
        click.ClickException: it is damaged.
    """
    document = parse_yaml(content, name)
    stages = document.get("stages", {}) if isinstance(document, dict) else None
    if not isinstance(stages, dict) or not all(map(_is_stage, stages.values())):
        raise click.ClickException(
            f"{name}: no dvc.lock, as it lacks stages with their deps and outs; get it back with git, or `make repro`"
        )
    return stages


def _is_stage(stage: Any) -> bool:
    if not isinstance(stage, dict) or "cmd" not in stage:
        return False
    entries = [stage.get(kind, []) for kind in ("deps", "outs")]
    return all(
        isinstance(one, list) and all(isinstance(entry, dict) and "path" in entry for entry in one) for one in entries
    )
