"""Checkouts without a real environment, to see which programs make and docker/run start, with which words."""

import os
import shutil
import subprocess
from pathlib import Path

from stage_runs import DEFAULTS, ROOT, succeed_in

from tools import generate


def checkout(folder: Path) -> Path:
    """A checkout whose environment is complete, and whose Python prints its arguments instead of running them."""
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copytree(ROOT / "docker", folder / "docker", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "requirements").mkdir()
    for name in ("pyproject.toml", "requirements/pipeline.txt"):
        (folder / name).touch()
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$0 $*"\n', encoding="utf-8")
    python.chmod(0o755)
    for name in (".uv", ".pipeline"):
        (folder / ".venv" / name).touch()
    return folder


def put_defaults(folder: Path) -> None:
    """Give a copy of this checkout the settings and rows that Lockstep comes with, where a user has their own."""
    shutil.copy(DEFAULTS, folder / "params.yaml")
    for path in (*folder.glob("data/*.dvc"), *folder.glob("data/raw/[!.]*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "data" / "raw").mkdir(exist_ok=True)
    succeed_in(folder, generate.main)


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a checkout, without what the environment of the tests says of theirs."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DVC_ROOT", "VENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    environment = clean | {"RUNTIME": "local", "PYTHONDONTWRITEBYTECODE": "1"} | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
