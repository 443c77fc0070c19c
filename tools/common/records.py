"""Records: the .dvc file of a data file, which says where its rows came from."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from stages.common import files, settings

HINT = "choose another --name, or replace it with --force"


def path_of(target: Path) -> Path:
    """Give the .dvc file of a data file: beside data/raw, as all that lies in there feeds the hash of that folder."""
    return target.parent.with_name(f"{target.name}.dvc")


def read(target: Path, asked: dict[str, Any], force: bool) -> dict[str, Any]:
    """Read what an earlier import of the same recorded; nothing where there was none.

    Raises:
        click.ClickException: a file of that name was not imported like this, and there is no `force`.
    """
    record = path_of(target)
    document = settings.read_yaml(record) if record.exists() else {}
    # Without a hash DVC never took it over: the import was killed.
    known = document.get("meta", {}) if "md5" in document.get("outs", [{}])[0] else {}
    keys = ("source", "file", "limit", "seed", *asked)
    different = [key for key in keys if known.get(key) != asked.get(key)]
    if not different:
        return known
    if not force and (record.exists() or target.exists()):
        was = f"{different[0]} {known.get(different[0], 'not set')}" if known else "no record of its source"
        raise click.ClickException(f"{target}: exists, with {was}; {HINT}")
    return {}


def is_kept(path: Path, target: Path, same_revision: bool) -> bool:
    """Tell whether `target` still lies where it was imported; fail when it or its source has changed since."""
    if not same_revision:
        raise click.ClickException(f"{target}: its source has changed since; {HINT}")
    if target.exists() and files.sha256(target) != files.sha256(path):
        raise click.ClickException(f"{target}: was changed after its import; --force imports it anew")
    return target.exists()


def track(path: Path, target: Path, facts: dict[str, Any]) -> None:
    """Move a file to its place, record the facts and let DVC track it; what stops that leaves all as it was."""
    record, ignored, old = path_of(target), target.with_name(".gitignore"), path.parent / "old"
    before = {file: file.read_bytes() for file in (record, ignored) if file.exists()}
    text = io.StringIO()
    YAML().dump(facts | {"outs": [{"path": f"{target.parent.name}/{target.name}"}]}, text)
    path.chmod(0o644)
    try:
        if target.exists():
            target.rename(old)
        path.rename(target)
        # Before DVC adds the hash: it keeps what it finds there, and git is given the whole.
        files.write_texts({record: text.getvalue()})
        command = [sys.executable, "-m", "dvc", "add", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(f"dvc add: {done.stderr.strip().removeprefix('ERROR:').strip()}")
    except BaseException:  # Ctrl-C too
        target.unlink(missing_ok=True)
        if old.exists():
            old.rename(target)
        for file in (record, ignored):
            file.write_bytes(before[file]) if file in before else file.unlink(missing_ok=True)
        raise
