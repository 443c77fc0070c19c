"""Repository: what git knows of this checkout."""

import io
import subprocess
import tarfile

import click

# What a run leaves in git: a commit that changes any of it records a run.
RUN = ("dvc.lock", "metrics")
# And what is said of its rows, such as their licence, which may be mended later.
RECORDED = (*RUN, "data/*.dvc")


def git(*arguments: str) -> str:
    """Run git in the current folder and give what it prints."""
    return _run(*arguments).decode("utf-8")


def recorded(rev: str) -> str:
    """Give the commit that recorded the run that a revision has.

    Raises:
        click.ClickException: there is no such revision, or it has no run.
    """
    commit = git("log", "-1", "--format=%H", "--end-of-options", rev, "--", *RECORDED).strip()
    if not commit or "dvc.lock" not in git("ls-tree", "--name-only", commit).splitlines():
        raise click.ClickException(f"dvc.lock: not committed at {rev}; run `make repro` and commit")
    return commit


def history() -> list[str]:
    """Give the commits that recorded a run, newest first: HEAD's, then those of other branches and experiments."""
    # --full-history: a side branch counts, too, where its merge took the other side's files.
    walk = ("log", "--full-history", "--format=%H")
    return [
        commit
        for revisions in (["HEAD"], ["--all", "--not", "HEAD"])
        for commit in git(*walk, *revisions, "--", *RUN).split()
    ]


def find(pattern: str, commits: list[str], *paths: str) -> list[tuple[str, str]]:
    """Look for a regular expression in files of commits; give each commit that has it, in order, and what matched."""
    done = subprocess.run(
        ["git", "grep", "--only-matching", "--no-color", "-E", "-e", pattern, *commits, "--", *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    return [(line.partition(":")[0], line.rpartition(":")[2]) for line in done.stdout.splitlines()]


def first(text: str, commit: str) -> str:
    """Give the oldest commit, up to and with `commit`, that brought a text into what runs leave in git."""
    # -m: merges, too, as the run may have been recorded in one.
    return git("log", "--full-history", "-m", "--format=%H", f"-S{text}", commit, "--", *RUN).split()[-1]


def tree(commit: str) -> dict[str, bytes]:
    """Give every file of a commit."""
    with tarfile.open(fileobj=io.BytesIO(_run("archive", "--format=tar", commit))) as archive:
        files = ((one.name, archive.extractfile(one)) for one in archive if one.isfile())
        return {name: file.read() for name, file in files if file}


def _run(*arguments: str) -> bytes:
    # A user's git may print signatures among the hashes that were asked for.
    command = ["git", "-c", "log.showSignature=false", *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise click.ClickException(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout
