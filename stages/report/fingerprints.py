"""Fingerprints: the hashes by which a file is found again, wherever it lies and whatever its name is."""

import hashlib
from pathlib import Path
from typing import Any

from stages.common.progress import track

FOLDERS = ("base", "adapter", "merged", "awq")  # below models/


def facts(path: Path) -> dict[str, Any]:
    """Return a file's path, size and hashes: md5 as in dvc.lock, and sha256, which nobody can forge."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):  # both hashes in one reading: a model can be larger than the memory
            md5.update(chunk)
            sha256.update(chunk)
        size = file.tell()
    return {"path": path.as_posix(), "md5": md5.hexdigest(), "sha256": sha256.hexdigest(), "size_bytes": size}


def below(folder: Path) -> list[dict[str, Any]]:
    """Return the `facts` of every file below a folder, sorted by path."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [facts(path) for path in track(found, f"hashes of {folder}", "file")]
