"""Differences: what in a commit is of another run than the one that its dvc.lock describes."""

import hashlib
from typing import Any

import click
from pathspec import GitIgnoreSpec

from stages import report
from tools.common.artefact import folder_md5


def refuse(run: dict[str, Any]) -> None:
    """Fail unless all that a commit holds is of one run, with the hashes of its files.

    Raises:
        click.ClickException: files of another run are among it, or parts are missing, as in older runs.
    """
    commit = run["commit"]["hash"]
    if run["differs"]:
        raise click.ClickException(
            f"{commit}: {', '.join(run['differs'])}: not what dvc.lock there says; "
            "run `make repro` and commit all that it changed"
        )
    missing = [f"metrics/{name}.json" for name in report.METRICS if name not in run["metrics"]]
    missing += [] if run["environment"] else ["list of files in metrics/lineage.json"]
    if missing:
        raise click.ClickException(f"{commit}: its run has no {', '.join(missing)}; run `make repro` and commit")


def find(run: dict[str, Any], tree: dict[str, bytes], tracked: dict[str, dict[str, Any]], params: Any) -> list[str]:
    """Compare the files of a commit, and the hashes in them, with those of its dvc.lock.

    Args:
        run: what dvc.lock and the metrics say.
        tree: the files of the commit.
        tracked: md5 of each path of rows that DVC tracks, by its .dvc file.
        params: params.yaml.

    Returns:
        The paths that are not what the run read or wrote.
    """
    stages = run["stages"].values()
    entries = [entry for stage in stages for kind in ("deps", "outs") for entry in stage[kind]]
    known = [*entries, *run["data"], *run["environment"]]
    given = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in tree.items()}
    given |= {path: record["md5"] for path, record in tracked.items()}
    different = {entry["path"] for entry in known if given.get(entry["path"], entry["md5"]) != entry["md5"]}
    ignored = GitIgnoreSpec.from_lines(tree.get(".dvcignore", b"").decode("utf-8").splitlines())
    seen = {name: md5 for name, md5 in given.items() if not ignored.match_file(name)}
    written = {out["path"] for stage in stages for out in stage["outs"]}
    different |= {entry["path"] for entry in entries if entry["path"] not in written and not _holds(seen, entry)}
    for model in run["models"].values():
        if model["files"] and folder_md5(model["path"], model["files"]) != model["md5"]:
            different.add(model["path"])
    if any(_value(params, key) != value for stage in stages for key, value in stage["params"].items()):
        different.add("params.yaml")
    return sorted(different)


def _holds(given: dict[str, str], folder: dict[str, Any]) -> bool:
    """Tell whether a folder of the commit is what dvc.lock says; one whose files are not all named may be."""
    files = [{"path": name, "md5": md5} for name, md5 in given.items() if name.startswith(f"{folder['path']}/")]
    if not folder["md5"].endswith(".dir") or any(file["md5"].endswith(".dir") for file in files):
        return True
    return folder_md5(folder["path"], files) == folder["md5"]


def _value(params: Any, key: str) -> Any:
    for part in key.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params
