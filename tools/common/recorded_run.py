"""Recorded run: what a commit says of the run that it records, from dvc.lock and the metrics that dvc.lock names."""

import json
from datetime import UTC, datetime
from fnmatch import fnmatch
from typing import Any

import click
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.report.fingerprints import FOLDERS
from stages.report.gates import GATES, METRICS
from tools.common import repository
from tools.common.differences import find_differences, folder_files

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
    stages = {name: _stage(stage) for name, stage in _parsed(files, "dvc.lock")["stages"].items()}
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
    text = files.get(path, b"{}").decode("utf-8")
    try:
        return json.loads(text) if path.endswith(".json") else YAML(typ="safe", pure=True).load(text)
    except (json.JSONDecodeError, YAMLError):
        problem = "not readable in this commit; was a merge left half done? fix the file and commit"
        raise click.ClickException(f"{path}: {problem}") from None
