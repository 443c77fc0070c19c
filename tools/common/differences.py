"""Differences: files of a commit that are of another run than the one in its dvc.lock."""

import hashlib
from typing import Any

from pathspec import GitIgnoreSpec

from tools.common.dvc_cache import listed_md5

File = dict[str, str]


def folder_files(files: dict[str, bytes], folder: str) -> list[File]:
    """List path and md5 of the files of a commit that DVC hashes below a folder: those that .dvcignore leaves.

    Args:
        files: content of the commit's files by path, `.dvcignore` among them.
        folder: path of the folder.
    """
    ignored = GitIgnoreSpec.from_lines(files.get(".dvcignore", b"").decode("utf-8").splitlines())
    below = {path: content for path, content in files.items() if path.startswith(f"{folder}/")}
    return [{"path": path, "md5": _md5(content)} for path, content in below.items() if not ignored.match_file(path)]


def find_differences(run: dict[str, Any], files: dict[str, bytes], tracked: dict[str, Any], params: Any) -> list[str]:
    """Compare the files of a commit, and the hashes in them, with those of its dvc.lock.

    Args:
        run: what dvc.lock and the metrics say, as in `recorded_run.load_run`.
        files: content of the commit's files by path.
        tracked: for each file of rows that DVC tracks its `md5`, by path.
        params: content of params.yaml.

    Returns:
        The paths that are not what the run read or wrote, sorted.
    """
    stages = run["stages"].values()
    entries = [entry for stage in stages for kind in ("deps", "outs") for entry in stage[kind]]
    known = [*entries, *run["data"], *run["environment"]]
    md5s = {path: _md5(content) for path, content in files.items()}
    md5s |= {path: record["md5"] for path, record in tracked.items()}
    different = {entry["path"] for entry in known if md5s.get(entry["path"], entry["md5"]) != entry["md5"]}
    written = {out["path"] for stage in stages for out in stage["outs"]}
    folders = {entry["path"]: entry["md5"] for entry in entries if entry["path"] not in written}
    for folder, md5 in folders.items():
        if md5.endswith(".dir") and not _may_be(md5, folder, files, tracked):
            different.add(folder)
    for model in run["models"].values():
        if model["files"] and listed_md5(model["path"], model["files"]) != model["md5"]:
            different.add(model["path"])
    if any(_value(params, key) != value for stage in stages for key, value in stage["params"].items()):
        different.add("params.yaml")
    return sorted(different)


def _may_be(md5: str, folder: str, files: dict[str, bytes], tracked: dict[str, Any]) -> bool:
    """Whether a folder of the commit is what dvc.lock says. It counts as such if DVC tracks a folder in it."""
    rows = [{"path": path, "md5": one["md5"]} for path, one in tracked.items() if path.startswith(f"{folder}/")]
    if any(row["md5"].endswith(".dir") for row in rows):
        return True
    return listed_md5(folder, [*folder_files(files, folder), *rows]) == md5


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _value(params: Any, key: str) -> Any:
    for part in key.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params
