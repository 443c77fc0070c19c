"""Artefact: a file or a model folder at hand, and the commit that recorded the run which it is of."""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import click

from stages import report
from stages.common import fingerprints
from tools.common import repository, version

LINEAGE = "metrics/lineage.json"
SERVED = re.compile(r"lockstep-\w+-(?P<hash>[0-9a-f]{8})(?P<mark>-unproven)?")


class Artefact(NamedTuple):
    """A file or folder by its content. `path` is how it was asked for; a folder has no sha256."""

    path: str
    md5: str
    sha256: str | None


def of_file(path: Path) -> Artefact:
    """Hash a file.

    Raises:
        click.ClickException: there is none.
    """
    if not path.is_file():
        raise click.ClickException(f"{path}: no such file{'; MODEL takes a folder' if path.is_dir() else ''}")
    facts = fingerprints.facts(path)
    return Artefact(str(path), facts["md5"], facts["sha256"])


def of_model(name: str) -> Artefact:
    """Hash a model folder: one of models/ by its name, or any by its path.

    Raises:
        click.ClickException: there is none.
    """
    folder = Path("models", name) if name in report.FOLDERS else Path(name)
    files = fingerprints.below(folder) if folder.is_dir() else []
    if not files:
        known = f"one of {', '.join(report.FOLDERS)}, or the path of a model folder"
        raise click.ClickException(f"{folder}: no model there; MODEL is {known}, and `dvc pull` brings those of HEAD")
    return Artefact(str(folder), folder_md5(folder.as_posix(), files), None)


def of_name(name: str) -> Artefact:
    """Find the hash that a served model bears in its name.

    Raises:
        click.ClickException: no such name, or no commit has a model with that hash.
    """
    if not (match := SERVED.fullmatch(name)):
        raise click.ClickException(f"{name}: no name of a served model; those are like lockstep-awq-1a2b3c4d")
    found = repository.find(rf"{match['hash']}[0-9a-f]{{24}}\.dir", repository.history(), "dvc.lock")
    if not found:
        hint = "it was served with FORCE=1" if match["mark"] else "was `make repro` committed?"
        raise click.ClickException(f"{name}: no model of any commit here has such a hash; {hint}")
    return Artefact(name, found[0][1], None)


def folder_md5(folder: str, files: list[dict[str, Any]]) -> str:
    """Give a folder's hash as it stands in dvc.lock, from the paths and md5s of its files."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    tree = Tree()  # type: ignore[no-untyped-call]
    for file in files:
        tree.add(PurePosixPath(file["path"]).relative_to(folder).parts, None, HashInfo("md5", file["md5"]))
    tree.digest()
    return str(tree.oid)


def recorded(artefact: Artefact, rev: str | None) -> tuple[str, str]:
    """Find the commit that recorded the run which an artefact is of.

    Args:
        artefact: what is at hand.
        rev: the one revision that may have it; by default every commit is searched, and the newest counts.

    Returns:
        The newest commit that has it, and the first one that had.

    Raises:
        click.ClickException: no commit has it.
    """
    commits = [repository.recorded(rev)] if rev else repository.history()
    hashes = "|".join(filter(None, (artefact.sha256, artefact.md5)))
    found = repository.find(hashes, commits, "dvc.lock", LINEAGE)
    if not found and artefact.sha256:  # older runs list no files; DVC's cache may
        folders = repository.find(r"[0-9a-f]{32}\.dir", commits, "dvc.lock")
        inside = listings({name for _, name in folders})
        found = [(commit, name) for commit, name in folders if artefact.md5 in inside[name].values()]
    if not found:
        where = f"of {rev}; without REV every commit is searched" if rev else "of any commit here"
        shallow = repository.git("rev-parse", "--is-shallow-repository").strip() == "true"
        hint = "`git fetch --unshallow` brings older ones" if shallow else "was `make repro` committed?"
        raise click.ClickException(f"{artefact.path}: md5 {artefact.md5}: not {where}{'' if rev else f'; {hint}'}")
    commit, matched = found[0]
    return commit, repository.first(matched, commit)


def places(artefact: Artefact, run: dict[str, Any]) -> list[str]:
    """Give the paths under which a run has the artefact, what its stages wrote first."""
    entries = [entry for kind in ("outs", "deps") for stage in run["stages"].values() for entry in stage[kind]]
    found = [entry["path"] for entry in entries if entry["md5"] == artefact.md5]
    listed = [entry for model in run["models"].values() for entry in model["files"]] + run["data"]
    found += [entry["path"] for entry in listed if entry["sha256"] == artefact.sha256]
    if not found:  # a run that lists no files
        inside = listings({entry["md5"] for entry in entries if entry["md5"].endswith(".dir")})
        for entry in entries:
            names = [name for name, md5 in inside.get(entry["md5"], {}).items() if md5 == artefact.md5]
            found += [f"{entry['path']}/{name}" for name in names]
    return list(dict.fromkeys(found))


def listings(folders: set[str]) -> dict[str, dict[str, str]]:
    """Give the files of folders in dvc.lock, with their md5s, from DVC's cache; none of those that are not there."""
    caches = list(version.cache_folders())
    found: dict[str, dict[str, str]] = {}
    for md5 in folders:
        paths = [cache / "files" / "md5" / md5[:2] / md5[2:] for cache in caches]
        texts = [path.read_text(encoding="utf-8") for path in paths if path.exists()]
        found[md5] = {one["relpath"]: one["md5"] for text in texts for one in json.loads(text)}
    return found


def cached(md5: str) -> dict[str, Path]:
    """Give the files of a folder in dvc.lock, with their places in DVC's cache; none where one of them is missing."""
    listed, caches = listings({md5})[md5], list(version.cache_folders())
    places = {
        name: next(
            (place for cache in caches if (place := cache / "files" / "md5" / one[:2] / one[2:]).exists()), None
        )
        for name, one in listed.items()
    }
    return {name: place for name, place in places.items() if place} if all(places.values()) else {}
