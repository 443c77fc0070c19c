"""Artefact: a file or a model folder, and the commit that records the run which it is of."""

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import click

from stages.report import fingerprints
from stages.report.fingerprints import FOLDERS
from tools.common import dvc_cache, repository
from tools.common.differences import folder_files
from tools.common.recorded_run import Run

LINEAGE = "metrics/lineage.json"
SERVED = re.compile(r"lockstep-\w+-(?P<hash>[0-9a-f]{8})(?P<mark>-unproven)?")


class Artefact(NamedTuple):
    """A file or folder by its content.

    Attributes:
        path: its path, or the name under which a model is served.
        md5: its hash as dvc.lock has it.
        sha256: None for a folder.
    """

    path: str
    md5: str
    sha256: str | None = None


def hash_file(path: Path) -> Artefact:
    """Hash a file.

    Raises:
        click.ClickException: there is no such file.
    """
    if not path.is_file():
        raise click.ClickException(f"{path}: no such file{'; MODEL takes a folder' if path.is_dir() else ''}")
    facts = fingerprints.facts(path)
    return Artefact(str(path), facts["md5"], facts["sha256"])


def hash_model(name: str) -> Artefact:
    """Hash a model folder: one of models/ by its name, or any by its path.

    Raises:
        click.ClickException: there is no such folder, or it is empty.
    """
    folder = Path("models", name) if name in FOLDERS else Path(name)
    files = fingerprints.below(folder) if folder.is_dir() else []
    if not files:
        known = f"one of {', '.join(FOLDERS)}, or the path of a model folder"
        raise click.ClickException(f"{folder}: no model there; MODEL is {known}, and `dvc pull` fetches HEAD's")
    return Artefact(str(folder), dvc_cache.listed_md5(folder.as_posix(), files))


def hash_of_served(name: str) -> Artefact:
    """Find the model whose hash is part of a served name.

    Raises:
        click.ClickException: not the name of a served model, or no commit has a model with that hash.
    """
    if not (match := SERVED.fullmatch(name)):
        raise click.ClickException(f"{name}: not the name of a served model, such as lockstep-awq-1a2b3c4d")
    found = repository.grep(rf"{match['hash']}[0-9a-f]{{24}}\.dir", repository.run_commits(), "dvc.lock")
    if not found:
        hint = "it was served with FORCE=1" if match["mark"] else "was `make repro` committed?"
        raise click.ClickException(f"{name}: no commit here has a model with this hash; {hint}")
    return Artefact(name, found[0][1])


def find_commit(artefact: Artefact, rev: str | None) -> tuple[repository.Commit, repository.Commit]:
    """Find the commit that records the run which an artefact is of.

    Args:
        artefact: what to look for.
        rev: the only revision that may have it; None searches every commit, and the newest counts.

    Returns:
        The newest commit that has it, and the first one that had it.

    Raises:
        click.ClickException: no commit has it.
    """
    commits = [repository.recorded(rev)] if rev is not None else repository.run_commits()
    hashes = "|".join(filter(None, (artefact.sha256, artefact.md5)))
    found = repository.grep(hashes, commits, "dvc.lock", LINEAGE)
    if artefact.sha256:
        # dvc.lock has no hash of a file in a folder dep, only that of the folder.
        newer = commits[: commits.index(found[0][0])] if found else commits
        blob = repository.blob(artefact.path) if newer else ""
        if newest := next((commit for commit in newer if _is_in_folder(blob, commit)), None):
            older = repository.run_commits(newest)
            first = next((commit for commit in reversed(older) if _is_in_folder(blob, commit)), newest)
            return newest, repository.first_run_with(found[0][1], found[0][0]) if found else first
    if not found and artefact.sha256:  # older runs list no files; DVC's cache may
        folders = repository.grep(r"[0-9a-f]{32}\.dir", commits, "dvc.lock")
        listed = dvc_cache.listings({md5 for _, md5 in folders})
        found = [(commit, md5) for commit, md5 in folders if artefact.md5 in listed[md5].values()]
    if not found:
        where = f"not of {rev}; without REV every commit is searched" if rev else "no commit here has it"
        shallow = repository.git("rev-parse", "--is-shallow-repository").strip() == "true"
        hint = "`git fetch --unshallow` fetches older ones" if shallow else "was `make repro` committed?"
        raise click.ClickException(f"{artefact.path}: md5 {artefact.md5}: {where}{'' if rev else f'; {hint}'}")
    commit, matched = found[0]
    return commit, repository.first_run_with(matched, commit)


def find_places(artefact: Artefact, run: Run) -> list[str]:
    """List the paths under which a run has an artefact: first what its stages wrote, then what they read."""
    entries = [entry for kind in ("outs", "deps") for stage in run["stages"].values() for entry in stage[kind]]
    found = [entry["path"] for entry in [*entries, *run["files"]] if entry["md5"] == artefact.md5]
    listed = [entry for model in run["models"].values() for entry in model["files"]] + run["data"]
    found += [entry["path"] for entry in listed if entry["sha256"] == artefact.sha256]
    if not found:  # a run that lists no files
        inside = dvc_cache.listings({entry["md5"] for entry in entries if entry["md5"].endswith(".dir")})
        for entry in entries:
            names = [name for name, md5 in inside.get(entry["md5"], {}).items() if md5 == artefact.md5]
            found += [f"{entry['path']}/{name}" for name in names]
    return list(dict.fromkeys(found))


def _is_in_folder(blob: str, commit: repository.Commit) -> bool:
    """Whether the run of a commit read a file as part of a folder: whether dvc.lock has the hash of that folder."""
    paths = repository.paths_of_blob(blob, commit)
    folders = {parent.as_posix() for path in paths for parent in PurePosixPath(path).parents if parent.name}
    if not folders:
        return False
    files = repository.read_files(commit)
    lock = files.get("dvc.lock", b"").decode("utf-8")
    return any(dvc_cache.listed_md5(folder, folder_files(files, folder)) in lock for folder in folders)
