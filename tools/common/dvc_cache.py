"""DVC cache: the hash that DVC gives a folder, and where the bytes of a hashed file or folder lie."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from stages.report import fingerprints


def folder_md5(folder: Path) -> str:
    """Compute a folder's hash as dvc.lock has it, such as `0123….dir`, from its files on disk."""
    return listed_md5(folder.as_posix(), fingerprints.below(folder))


def listed_md5(folder: str, files: list[dict[str, Any]]) -> str:
    """Compute a folder's hash as dvc.lock has it.

    Args:
        folder: path of the folder.
        files: `path` and `md5` of each file in it.
    """
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    tree = Tree()  # type: ignore[no-untyped-call]
    for file in files:
        tree.add(PurePosixPath(file["path"]).relative_to(folder).parts, None, HashInfo("md5", file["md5"]))
    tree.digest()
    return str(tree.oid)


def cache_folders() -> Iterator[Path]:
    """Yield the folders that may be DVC's cache. DVC itself is asked last, as that takes half a second."""
    yield Path(".dvc/cache")
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    yield Path(asked.stdout.strip())


def cached_file(md5: str) -> Path | None:
    """Return the place of a file in the cache, None where the cache lacks it."""
    return _find(md5, cache_folders())


def listings(folders: set[str]) -> dict[str, dict[str, str]]:
    """Read from the cache what hashed folders contain.

    Args:
        folders: hashes of folders, as in dvc.lock.

    Returns:
        For each folder the md5 of its files by path; empty where the cache lacks the folder.
    """
    caches = list(cache_folders())
    found: dict[str, dict[str, str]] = {}
    for md5 in folders:
        listing = _find(md5, caches)
        entries = json.loads(listing.read_text(encoding="utf-8")) if listing else []
        found[md5] = {entry["relpath"]: entry["md5"] for entry in entries}
    return found


def cached_folder(md5: str) -> dict[str, Path]:
    """Return the place in the cache of each file of a folder, by path; empty where one of them is missing."""
    listed, caches = listings({md5})[md5], list(cache_folders())
    places = {name: _find(one, caches) for name, one in listed.items()}
    found = {name: place for name, place in places.items() if place}
    return found if len(found) == len(places) else {}


def _find(md5: str, caches: Iterable[Path]) -> Path | None:
    places = (cache / "files" / "md5" / md5[:2] / md5[2:] for cache in caches)
    return next((place for place in places if place.exists()), None)
