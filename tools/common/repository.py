"""Repository: commits that record a run, and the files in them, read with git.

The project may be a folder of a larger repository. Each call runs in the project's folder, where git takes paths
after `--` as relative to it, and `ls-tree` and `archive` know only what is in it; REV:PATH needs `./` for that.
"""

import io
import subprocess
import tarfile

import click

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


def show_file(rev: str, path: str) -> str:
    """Return the text of a file of the project at a revision.

    Raises:
        click.ClickException: there is no such revision, or no such file in it.
    """
    return git("show", f"{rev}:./{path}")


def recorded(rev: str) -> str:
    """Return the commit that records the run of a revision: the newest one, up to it, that changes a run's files.

    Raises:
        click.ClickException: there is no such revision, or it has no run.
    """
    commit = git("log", "-1", "--format=%H", "--end-of-options", rev, "--", *RECORD_FILES).strip()
    if not commit or "dvc.lock" not in git("ls-tree", "--name-only", commit).splitlines():
        raise click.ClickException(f"dvc.lock: not committed at {rev}; run `make repro` and commit")
    return commit


def run_commits(rev: str = "") -> list[str]:
    """List the commits that record a run, newest first.

    Args:
        rev: list those up to this revision; by default HEAD's, then those of other branches and DVC experiments.
    """
    # --full-history: a side branch counts, also where its merge took the other side's files.
    walk = ("log", "--full-history", "--format=%H")
    walks = [[rev]] if rev else [["HEAD"], ["--all", "--not", "HEAD"]]
    return [commit for revisions in walks for commit in git(*walk, *revisions, "--", *RUN_FILES).split()]


def grep(pattern: str, commits: list[str], *paths: str) -> list[tuple[str, str]]:
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
    return [(line.partition(":")[0], line.rpartition(":")[2]) for line in done.stdout.splitlines()]


def first_run_with(text: str, commit: str) -> str:
    """Return the oldest commit, up to and including `commit`, that adds a text to the files of a run."""
    # -m: a merge may record the run, too.
    return git("log", "--full-history", "-m", "--format=%H", f"-S{text}", commit, "--", *RUN_FILES).split()[-1]


def blob(path: str) -> str:
    """Compute the hash under which git stores the content of a file."""
    return git("hash-object", "--no-filters", "--", path).strip()


def paths_of_blob(blob: str, commit: str) -> list[str]:
    """List the paths at which a commit has the content with this hash."""
    entries = (entry.partition("\t") for entry in git("ls-tree", "-r", "-z", commit).split("\0") if entry)
    return [path for facts, _, path in entries if facts.split()[2] == blob]


def read_files(commit: str) -> dict[str, bytes]:
    """Read every file of a commit, by path."""
    with tarfile.open(fileobj=io.BytesIO(_run("archive", "--format=tar", commit))) as archive:
        files = ((one.name, archive.extractfile(one)) for one in archive if one.isfile())
        return {name: file.read() for name, file in files if file}


def _run(*arguments: str) -> bytes:
    # A user's git may be set to print signatures among the hashes.
    command = ["git", "-c", "log.showSignature=false", *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise click.ClickException(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout
