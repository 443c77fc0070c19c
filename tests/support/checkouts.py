"""Checkouts without a real environment, to see which programs make and docker/run start, with which words."""

import os
import shutil
import subprocess
from pathlib import Path

from stage_runs import DEFAULTS, ROOT, succeed_in

from tools import generate

# Commits need a name, and a machine that tests this may have none set.
WHO = {f"GIT_{role}_{part}": "test" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}


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


def committed_copy(folder: Path) -> Path:
    """A clone of this checkout whose last commit has the files as they are now, with default settings and rows."""
    git(ROOT, "clone", "--quiet", "--", str(ROOT), str(folder))
    for name in filter(None, git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")):
        (folder / name).unlink(missing_ok=True)
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    put_defaults(folder)
    commit(folder, "as it is now")
    return folder


def commit(folder: Path, subject: str) -> str:
    """Commit everything, and return the hash."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", f"--message={subject}")
    return git(folder, "rev-parse", "HEAD").strip()


def git(folder: Path, *words: str) -> str:
    """Run git, which must succeed."""
    command = ["git", *words]
    return subprocess.run(
        command, cwd=folder, env=os.environ | WHO, capture_output=True, text=True, check=True
    ).stdout


def put_defaults(folder: Path) -> None:
    """Give a copy of this checkout the settings and rows that Lockstep comes with, where a user has their own."""
    shutil.copy(DEFAULTS, folder / "params.yaml")
    (folder / "project.yaml").unlink(missing_ok=True)
    for path in (*folder.glob("data/*.dvc"), *folder.glob("data/raw/[!.]*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "data" / "raw").mkdir(parents=True, exist_ok=True)
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
