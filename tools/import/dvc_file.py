"""The .dvc file of a data file: what DVC tracks, and where the rows come from."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from stages.common import files
from stages.common.params import read_yaml

HINT = "choose another --name, or replace it with --force"


def path_of(target: Path) -> Path:
    """Return the .dvc file of a data file. It lies beside data/raw, as every file in data/raw is part of its hash."""
    return target.parent.with_name(f"{target.name}.dvc")


def find_earlier(target: Path, asked: dict[str, Any], force: bool) -> dict[str, Any]:
    """Read what an earlier import of the same source recorded.

    Args:
        target: the data file.
        asked: what this import records, as far as it is known before the download.
        force: whether a file from elsewhere may be replaced.

    Returns:
        The recorded facts; empty where there was no such import.

    Raises:
        click.ClickException: a file of that name comes from elsewhere, and `force` is not set.
    """
    dvc_file = path_of(target)
    document = read_yaml(dvc_file) if dvc_file.exists() else {}
    # Without a hash the import was killed before DVC tracked the file.
    known = document.get("meta", {}) if "md5" in document.get("outs", [{}])[0] else {}
    keys = ("source", "file", "limit", "seed", *asked)
    different = [key for key in keys if known.get(key) != asked.get(key)]
    if not different:
        return known
    if not force and (dvc_file.exists() or target.exists()):
        was = f"{different[0]} {known.get(different[0], 'not set')}" if known else "no record of its source"
        raise click.ClickException(f"{target}: exists, with {was}; {HINT}")
    return {}


def is_unchanged(path: Path, target: Path, same_revision: bool) -> bool:
    """Whether the imported file is there and unchanged.

    Args:
        path: the file as the source has it now.
        target: the imported file.
        same_revision: whether the source has the revision that was imported.

    Raises:
        click.ClickException: the file or its source has changed since the import.
    """
    if not same_revision:
        raise click.ClickException(f"{target}: its source has changed since the import; {HINT}")
    if target.exists() and files.sha256(target) != files.sha256(path):
        raise click.ClickException(f"{target}: it has changed since the import; --force imports it again")
    return target.exists()


def track(path: Path, target: Path, facts: dict[str, Any]) -> None:
    """Move a file to its place, write its .dvc file and let DVC track it. A failure or Ctrl-C restores everything.

    Args:
        path: the file to move.
        target: its place in data/raw.
        facts: `desc` and `meta` of the .dvc file.

    Raises:
        click.ClickException: `dvc add` fails.
    """
    dvc_file, ignored, old = path_of(target), target.with_name(".gitignore"), path.parent / "old"
    before = {file: file.read_bytes() for file in (dvc_file, ignored) if file.exists()}
    text = io.StringIO()
    YAML().dump(facts | {"outs": [{"path": f"{target.parent.name}/{target.name}"}]}, text)
    path.chmod(0o644)
    try:
        if target.exists():
            target.rename(old)
        path.rename(target)
        # Before `dvc add`, which keeps these facts, adds the hash and stages the file in git.
        files.write_texts({dvc_file: text.getvalue()})
        command = [sys.executable, "-m", "dvc", "add", "--", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(f"dvc add: {done.stderr.strip().removeprefix('ERROR:').strip()}")
    except BaseException:  # Ctrl-C too
        target.unlink(missing_ok=True)
        if old.exists():
            old.rename(target)
        for file in (dvc_file, ignored):
            file.write_bytes(before[file]) if file in before else file.unlink(missing_ok=True)
        raise
