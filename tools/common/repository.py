"""Repository: commits that record a run, and the files in them, read with git.

The project may be a folder of a larger repository. Each call runs in the project's folder, where git takes paths
after `--` as relative to it, and `ls-tree` and `archive` know only what is in it; REV:PATH needs `./` for that.

A revision that a user names is text until `resolve` has made a commit of it; nothing else hands such text to git.
"""

import io
import re
import subprocess
import tarfile
from pathlib import Path
from typing import NewType

import click

Commit = NewType("Commit", str)  # the full hash of a commit that exists

# What a run leaves in git: a commit that changes any of it records a run.
RUN_FILES = ("dvc.lock", "metrics")
# Facts about rows, such as their licence, may be corrected after the run.
RECORD_FILES = (*RUN_FILES, "data/*.dvc")


def git(*arguments: str) -> str:
    """Run git in the current folder and return its output.

    Raises:
        click.ClickException: git fails; the message is git's own.
    """
    return _run(*arguments).decode("utf-8")


def resolve(rev: str) -> Commit:
    """Return the commit that a revision stands for.

    Args:
        rev: what a user typed: a hash, tag, branch or anything else that gitrevisions(7) knows.

    Raises:
        click.ClickException: it is not one commit of this repository.
    """
    # What starts with a dash is no option, and what git prints for a range is no hash.
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if "not a git repository" in done.stderr or "dubious ownership" in done.stderr:
        raise click.ClickException(f"git rev-parse: {done.stderr.strip()}")
    if not re.fullmatch(r"[0-9a-f]{40,64}\n", done.stdout):
        shown = rev if rev and rev.isprintable() else repr(rev)
        raise click.ClickException(f"{shown}: no commit here has this name; name a hash, tag or branch")
    return Commit(done.stdout.strip())


def show_file(commit: Commit, path: str) -> str:
    """Return the text of a file of the project at a commit.

    Raises:
        click.ClickException: the commit has no such file.
    """
    return git("show", f"{commit}:./{path}")


def recorded(rev: str) -> Commit:
    """Return the commit that records the run of a revision: the newest one, up to it, that changes a run's files.

    Raises:
        click.ClickException: there is no such revision, or it has no run.
    """
    head = resolve(rev)
    commit = Commit(git("log", "-1", "--format=%H", "--end-of-options", head, "--", *RECORD_FILES).strip())
    if not commit or "dvc.lock" not in git("ls-tree", "--name-only", commit).splitlines():
        raise click.ClickException(f"dvc.lock: not committed at {rev}; run `make repro` and commit")
    return commit


def run_commits(head: Commit | None = None) -> list[Commit]:
    """List the commits that record a run, newest first.

    Args:
        head: list those up to this commit; by default HEAD's, then those of other branches and DVC experiments.
    """
    # --full-history: a side branch counts, also where its merge took the other side's files.
    walk = ("log", "--full-history", "--format=%H")
    if head:
        return [Commit(line) for line in git(*walk, "--end-of-options", head, "--", *RUN_FILES).split()]
    others = git(*walk, "--all", "--not", "HEAD", "--", *RUN_FILES)
    return [Commit(line) for line in (git(*walk, "HEAD", "--", *RUN_FILES) + others).split()]


def grep(pattern: str, commits: list[Commit], *paths: str) -> list[tuple[Commit, str]]:
    """Search files of commits for an extended regular expression.

    Returns:
        Commit and matched text of each match, in the order of `commits`.
    """
    done = subprocess.run(
        ["git", "grep", "--only-matching", "--no-color", "-E", "-e", pattern, *commits, "--", *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    return [(Commit(line.partition(":")[0]), line.rpartition(":")[2]) for line in done.stdout.splitlines()]


def first_run_with(text: str, commit: Commit) -> Commit:
    """Return the oldest commit, up to and including `commit`, that adds a text to the files of a run."""
    # -m: a merge may record the run, too.
    found = git("log", "--full-history", "-m", "--format=%H", f"-S{text}", commit, "--", *RUN_FILES)
    return Commit(found.split()[-1])


def blob(path: str) -> str:
    """Compute the hash under which git stores the content of a file."""
    return git("hash-object", "--no-filters", "--", path).strip()


def paths_of_blob(blob: str, commit: Commit) -> list[str]:
    """List the paths at which a commit has the content with this hash."""
    entries = (entry.partition("\t") for entry in git("ls-tree", "-r", "-z", commit).split("\0") if entry)
    return [path for facts, _, path in entries if facts.split()[2] == blob]


def read_files(commit: Commit) -> dict[str, bytes]:
    """Read every file of a commit, by path."""
    with tarfile.open(fileobj=io.BytesIO(_run("archive", "--format=tar", commit))) as archive:
        files = ((one.name, archive.extractfile(one)) for one in archive if one.isfile())
        return {name: file.read() for name, file in files if file}


def workspace_files() -> dict[str, bytes]:
    """Read every file of the workspace that git has or would add, by path."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return {name: Path(name).read_bytes() for name in listed if name and Path(name).is_file()}


def _run(*arguments: str) -> bytes:
    # A user's git may be set to print signatures among the hashes.
    command = ["git", "-c", "log.showSignature=false", *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise click.ClickException(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout
