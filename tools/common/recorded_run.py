"""Recorded run: what a commit or the workspace says of its run, from dvc.lock and the metrics that it names."""

import hashlib
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click

from stages.common.files import parse_json, read_bytes
from stages.common.params import parse_yaml
from stages.report.figures import METRICS
from stages.report.fingerprints import FOLDERS
from stages.report.gates import GATES
from tools.common import repository
from tools.common.differences import find_differences, folder_files
from tools.common.dvc_lock import parse_lock

Run = dict[str, Any]


def load_run(commit: repository.Commit) -> Run:
    """Read what a commit says of its run.

    Args:
        commit: hash of a commit that records a run, from `repository.recorded` or `repository.run_commits`.
    """
    seconds, _, subject = repository.git("show", "-s", "--format=%ct %s", commit).strip().partition(" ")
    date = datetime.fromtimestamp(int(seconds), UTC).isoformat()
    return describe_run(repository.read_files(commit), {"hash": commit, "date": date, "subject": subject})


def describe_run(files: dict[str, bytes], commit: dict[str, str]) -> Run:
    """Read what the files of a commit, or of the workspace, say of their run.

    Args:
        files: their content by path.
        commit: hash, date and subject.

    Returns:
        commit: hash, date and subject.
        stages: cmd, params, deps and outs with their hashes, of each stage in dvc.lock.
        base, rows: what metrics/lineage.json says of them.
        data: path, hashes and counts of each file of rows, and for imported ones source and licence.
        files: path and md5 of each file in the folders that dvc.lock has as deps and that the commit still has.
        environment: path and hashes of the lock, and the libraries that it pins.
        models: for base, adapter, merged and awq, as far as the run got: md5, the stage that wrote it, files.
        metrics: what the stages measured, by the name of the file.
        gates: the verdicts.
        differs: paths in the commit that are not what its dvc.lock says; none where a run is committed as it was.
    """
    stages = {name: _stage(stage) for name, stage in _parsed(files, "dvc.lock").items()}
    # Only metrics that dvc.lock has the hash of: no run measured what lies beside them.
    hashed = {out["path"] for stage in stages.values() for out in stage["outs"]} & files.keys()
    measured = {path: _parsed(files, path) for path in hashed if path.endswith(".json")}
    lineage, verdicts = (measured.get(f"metrics/{name}.json", {}) for name in ("lineage", "gates"))
    metrics = {name: measured[path] for name in (*METRICS, "compare") if (path := f"metrics/{name}.json") in measured}
    tracked = _tracked(files)
    listed: list[dict[str, Any]] = lineage.get("files", [])  # older runs list none
    run = {
        "commit": commit,
        "stages": stages,
        "base": lineage.get("base", {}),
        "rows": lineage.get("rows", {}),
        "data": [
            entry
            | metrics["preprocess"]["files"][entry["path"].removeprefix("data/raw/")]
            | {"import": tracked.get(entry["path"], {}).get("import")}
            for entry in _below("data/raw", listed)
        ],
        "environment": [
            entry | {"libraries": files[entry["path"]].decode("utf-8").splitlines()}
            for entry in _below("requirements", listed)
        ],
        "models": {name: found for name in FOLDERS for found in _models(f"models/{name}", stages, listed)},
        "metrics": metrics,
        "gates": {name: verdicts[name] for name in [*GATES, *verdicts] if name in verdicts},
    }
    differs = find_differences(run, files, tracked, _parsed(files, "params.yaml"))
    folders = {dep["path"] for stage in stages.values() for dep in stage["deps"] if dep["md5"].endswith(".dir")}
    read = [file for folder in sorted(folders - set(differs)) for file in folder_files(files, folder)]
    return run | {"files": read, "differs": differs}


def load_workspace(names: tuple[str, ...]) -> Run:
    """Read what dvc.lock and the metrics of the workspace say of its run.

    Args:
        names: of files below metrics/, without `.json`.

    Returns:
        `stages` and `metrics`, as `load_run` returns them.

    Raises:
        click.ClickException: a file is missing or damaged, or is not the one that dvc.lock has the hash of.
    """
    lock = parse_lock(read_bytes(Path("dvc.lock"), "make repro"), "dvc.lock")
    stages = {name: _stage(stage) for name, stage in lock.items()}
    hashes = {out["path"]: out.get("md5") for stage in stages.values() for out in stage["outs"]}
    metrics = {}
    for name in names:
        path = f"metrics/{name}.json"
        content = read_bytes(Path(path), "make repro")
        metrics[name] = parse_json(content, path, "`make repro` writes it again")
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != hashes.get(path):
            raise click.ClickException(f"{path}: not the file of the run in dvc.lock; run `make repro`")
    return {"stages": stages, "metrics": metrics}


def require_one_run(run: Run) -> None:
    """Fail unless all files of a commit are of one run, with the hashes of its files.

    Raises:
        click.ClickException: files of another run are among them, or parts are missing, as in older runs.
    """
    commit = run["commit"]["hash"]
    if run["differs"]:
        raise click.ClickException(
            f"{commit}: {', '.join(run['differs'])}: not what its dvc.lock says; "
            "run `make repro` and commit everything that it changes"
        )
    missing = [f"metrics/{name}.json" for name in METRICS if name not in run["metrics"]]
    missing += [] if run["environment"] else ["list of files in metrics/lineage.json"]
    if missing:
        raise click.ClickException(f"{commit}: its run has no {', '.join(missing)}; run `make repro` and commit")


def _stage(stage: dict[str, Any]) -> dict[str, Any]:
    params = stage.get("params", {}).get("params.yaml", {})
    return {"cmd": stage["cmd"], "params": params} | {kind: stage.get(kind, []) for kind in ("deps", "outs")}


def _below(folder: str, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in listed if entry["path"].startswith(f"{folder}/")]


def _tracked(files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """Return, for each file of rows that DVC tracks, its md5 and what its import recorded, by path."""
    documents = [_parsed(files, path) for path in sorted(files) if fnmatch(path, "data/*.dvc")]
    return {
        f"data/{out['path']}": {"md5": out["md5"], "import": document.get("meta")}
        for document in documents
        for out in document["outs"]
    }


def _models(path: str, stages: dict[str, Any], listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Describe the model at a path; empty where the run ended before it."""
    return [
        {"path": path, "stage": name, "md5": out["md5"], "size_bytes": out["size"], "files": _below(path, listed)}
        for name, stage in stages.items()
        for out in stage["outs"]
        if out["path"] == path
    ]


def _parsed(files: dict[str, bytes], path: str) -> Any:
    parse = parse_json if path.endswith(".json") else parse_lock if path == "dvc.lock" else parse_yaml
    try:
        return parse(files.get(path, b"{}"), path)
    except click.ClickException:
        problem = "not readable in this commit; was a merge left half done? fix the file and commit"
        raise click.ClickException(f"{path}: {problem}") from None
