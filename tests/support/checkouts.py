"""Checkouts without a real environment, to see which programs make and docker/run start, with which words."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


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


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a checkout, without what the environment of the tests says of theirs."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DVC_ROOT", "VENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    environment = clean | {"RUNTIME": "local", "PYTHONDONTWRITEBYTECODE": "1"} | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
