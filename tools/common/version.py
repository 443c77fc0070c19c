"""Version: the workspace or a git revision, by what dvc.lock says there and where its prepared files lie."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from stages.common import files, fingerprints, settings
from tools.common import repository


@dataclass(frozen=True)
class Version:
    """The workspace where `rev` is None, else a git revision; `lock` is its dvc.lock."""

    rev: str | None
    lock: dict[str, Any]

    def path(self, name: str) -> Path:
        """Find the file that holds an out of preprocess as this version has it.

        Raises:
            click.ClickException: there is none; says what brings it.
        """
        if self.rev is None:
            files.require(Path(name), "dvc repro")
            return Path(name)
        known = self.entry("preprocess", "outs", name).get("md5")
        if known is None:
            raise click.ClickException(f"dvc.lock at {self.rev}: no {name} in it; name a revision that has one")
        for folder in cache_folders():
            if (place := folder / "files" / "md5" / known[:2] / known[2:]).exists():
                return place
        # Not `dvc fetch --all-commits`: DVC looks for a remote with a relative path in the wrong place then.
        fetch = f"git checkout {self.rev} && dvc fetch preprocess && git checkout -"
        raise click.ClickException(f"{name} at {self.rev}: not in the DVC cache; run `{fetch}` first")

    def entry(self, stage: str, kind: str, start: str) -> dict[str, Any]:
        """Give dvc.lock's entry on a stage's first dep or out whose path starts so; empty where none does."""
        entries = self.lock.get("stages", {}).get(stage, {}).get(kind, [])
        return next((entry for entry in entries if entry["path"].startswith(start)), {})

    def used(self, stage: str, start: str, maker: str) -> bool:
        """Whether a stage last ran on the bytes that the stage `maker` last wrote."""
        dep = self.entry(stage, "deps", start)
        return bool(dep) and dep["md5"] == self.entry(maker, "outs", dep["path"]).get("md5")

    def holds(self, name: str) -> bool:
        """Whether the file `name` has the bytes that dvc.lock says preprocess wrote."""
        return fingerprints.facts(self.path(name))["md5"] == self.entry("preprocess", "outs", name).get("md5")


def load(rev: str | None) -> Version:
    """Read dvc.lock, of the workspace or of a git revision."""
    if rev is not None:
        return Version(rev, YAML(typ="safe", pure=True).load(repository.git("show", f"{rev}:dvc.lock")))
    lock = Path("dvc.lock")
    return Version(None, settings.read_yaml(lock) if lock.exists() else {})


def cache_folders() -> Iterator[Path]:
    """Give where DVC's cache may be: DVC itself is asked last, as that takes it half a second."""
    yield Path(".dvc/cache")
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    yield Path(asked.stdout.strip())
