"""Run: all that a commit says of the run that it recorded, from dvc.lock and the metrics whose hashes are in it."""

import json
from datetime import UTC, datetime
from fnmatch import fnmatch
from typing import Any

import click
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages import report
from stages.common.gates import GATES
from tools.common import differences, repository

Run = dict[str, Any]
METRICS = (*report.METRICS, "compare")


def load(commit: str) -> Run:
    """Read what a commit says of its run.

    Returns:
        commit: hash, date and subject.
        stages: cmd, params, deps and outs with their hashes, of each stage in dvc.lock.
        base, rows: what metrics/lineage.json says of them.
        data: path, hashes, rows and, of imported ones, source and licence of each file of rows.
        environment: path and hashes of the lock, and the libraries that it pins.
        models: for base, adapter, merged and awq, as far as the run got: md5, the stage that wrote it, files.
        metrics: what the stages measured, by the name of the file.
        gates: the verdicts.
        differs: paths in the commit that are not what its dvc.lock says; none where a run was committed as it was.
    """
    tree = repository.tree(commit)
    seconds, _, subject = repository.git("show", "-s", "--format=%ct %s", commit).strip().partition(" ")
    stages = {name: _stage(stage) for name, stage in _parsed(tree, "dvc.lock")["stages"].items()}
    # Only files that dvc.lock has the hash of: what lies beside them was measured by nobody.
    hashed = {out["path"] for stage in stages.values() for out in stage["outs"]} & tree.keys()
    measured = {path: _parsed(tree, path) for path in hashed if path.endswith(".json")}
    lineage, verdicts = (measured.get(f"metrics/{name}.json", {}) for name in ("lineage", "gates"))
    metrics = {name: measured[path] for name in METRICS if (path := f"metrics/{name}.json") in measured}
    tracked = _tracked(tree)
    listed: list[dict[str, Any]] = lineage.get("files", [])  # older runs list none
    run = {
        "commit": {"hash": commit, "date": datetime.fromtimestamp(int(seconds), UTC).isoformat(), "subject": subject},
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
            entry | {"libraries": tree[entry["path"]].decode("utf-8").splitlines()}
            for entry in _below("requirements", listed)
        ],
        "models": {name: found for name in report.FOLDERS for found in _models(f"models/{name}", stages, listed)},
        "metrics": metrics,
        "gates": {name: verdicts[name] for name in [*GATES, *verdicts] if name in verdicts},
    }
    return run | {"differs": differences.find(run, tree, tracked, _parsed(tree, "params.yaml"))}


def _stage(stage: dict[str, Any]) -> dict[str, Any]:
    params = stage.get("params", {}).get("params.yaml", {})
    return {"cmd": stage["cmd"], "params": params} | {kind: stage.get(kind, []) for kind in ("deps", "outs")}


def _below(folder: str, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in listed if entry["path"].startswith(f"{folder}/")]


def _tracked(tree: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """Give, for each path of rows that DVC tracks, md5 and, where it was imported, source, revision and licence."""
    records = [_parsed(tree, name) for name in sorted(tree) if fnmatch(name, "data/*.dvc")]
    return {
        f"data/{out['path']}": {"md5": out["md5"], "import": record.get("meta")}
        for record in records
        for out in record["outs"]
    }


def _models(path: str, stages: dict[str, Any], listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the model at a path, unless the run ended before it."""
    return [
        {"path": path, "stage": name, "md5": out["md5"], "size_bytes": out["size"], "files": _below(path, listed)}
        for name, stage in stages.items()
        for out in stage["outs"]
        if out["path"] == path
    ]


def _parsed(tree: dict[str, bytes], name: str) -> Any:
    text = tree.get(name, b"{}").decode("utf-8")
    try:
        return json.loads(text) if name.endswith(".json") else YAML(typ="safe", pure=True).load(text)
    except (json.JSONDecodeError, YAMLError):
        problem = "cannot be read as it was committed; was a merge left half done?"
        raise click.ClickException(f"{name}: {problem}") from None
