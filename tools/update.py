"""Bring later versions of Lockstep into a project that `make new` made, by a merge of their git history.

README.md, params.yaml, the rows, metrics and dvc.lock stay as they are, and so does every file that only the project
has or changed. Where both changed a file, the merge waits for you, and the message says how to go on. Settings of the
new version that params.yaml lacks are named; --add writes them. Run it with `make update`, `make update
REV=v0.2.0`, or with `python -m tools.update`.
"""

import re
import subprocess
from pathlib import Path

import click

from stages.common import files
from stages.common.params import read_yaml
from tools.common import repository
from tools.common.project import DEFAULTS, PARAMS, PROJECT, README, REMOTE, ROWS, RUN, SETTINGS
from tools.recipe.overlays import OPEN, Document, Key, read_document, replace_lines

# The user's own: both sides change them, and theirs stay.
OWN = (README, PARAMS, PROJECT, ROWS.parent, *RUN)


@click.command(help=__doc__)
@click.option("--rev", default="HEAD", help="A tag, branch or commit of Lockstep.  [default: its newest]")
@click.option("--add", is_flag=True, help="Write settings that params.yaml lacks, with their defaults.")
def main(rev: str, add: bool) -> None:
    # Inputs
    check_state()
    commit = fetch(rev)
    new = repository.git("rev-list", "--count", "--end-of-options", f"HEAD..{commit}").strip()

    # Work
    if new != "0":
        merge(commit)

    # Outputs
    if new != "0":
        click.echo(f"merged {new} commits of Lockstep, up to {commit[:12]}")
        click.echo("what is new: `git diff HEAD^ HEAD -- CHANGELOG.md`; to undo: `git reset --hard HEAD^`")
    else:
        click.echo(f"already has Lockstep {commit[:12]}")
    is_complete = check_params(add)
    if new != "0" and is_complete:
        click.echo("next: `make repro` runs the stages that the new version changes; `dvc status` lists them")


def check_state() -> None:
    """Refuse where a merge would mix with other changes.

    Raises:
        click.ClickException: a merge is in progress, or tracked files have changes.
    """
    if not PROJECT.exists():
        raise click.ClickException(
            f"{PROJECT}: no such file: this is no project that `make new` made; use `git pull`"
        )
    if merging():
        raise click.ClickException(f"a merge is in progress; {GO_ON}")
    if changed := repository.git("status", "--porcelain", "--untracked-files=no"):
        names = ", ".join(line[3:] for line in changed.splitlines()[:5])
        raise click.ClickException(f"{names}: changed since the last commit; commit first, or `git stash`")


GO_ON = (
    "edit what is between <<<<<<< and >>>>>>>, `git add` these files and `git commit`; or `git merge --abort`, and "
    "everything is as before"
)


def merging() -> bool:
    """Whether a merge waits for its commit."""
    return Path(repository.git("rev-parse", "--git-path", "MERGE_HEAD").strip()).exists()


def fetch(rev: str) -> repository.Commit:
    """Fetch a version of Lockstep from the remote; a clone of the project gets the remote from project.yaml.

    Raises:
        click.ClickException: the address does not answer, or has no such version.
    """
    if not re.fullmatch(r"\w[\w./-]*", rev):
        raise click.ClickException(f"--rev: {rev!r}: name a tag, branch or commit of Lockstep")
    if REMOTE not in repository.git("remote").split():
        repository.git("remote", "add", "--", REMOTE, read_yaml(PROJECT)["address"])
    try:
        repository.git("fetch", "--quiet", "--no-tags", "--", REMOTE, rev)
    except click.ClickException as error:
        address = repository.git("remote", "get-url", "--", REMOTE).strip()
        way = f"`git remote set-url {REMOTE} ADDRESS` sets another address"
        raise click.ClickException(f"{error.message.splitlines()[0]} ({address}); {way}") from None
    return repository.resolve("FETCH_HEAD")


def merge(commit: repository.Commit) -> None:
    """Merge a version of Lockstep, and keep the user's own files as they are.

    Raises:
        click.ClickException: git refuses, or other files have conflicts; the merge then waits.
    """
    command = ["git", "merge", "--no-ff", "--no-commit", "--quiet", "--end-of-options", commit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not merging():
        raise click.ClickException(f"git merge: {(done.stderr or done.stdout).strip()}")
    paths = [str(path) for path in OWN]
    kept = repository.git("ls-tree", "-r", "-z", "--name-only", "HEAD", "--", *paths).rstrip("\0").split("\0")
    merged = repository.git("ls-files", "-z", "--", *paths).rstrip("\0").split("\0")
    if added := sorted({*merged} - {*kept}):
        repository.git("rm", "--force", "--quiet", "--", *added)
    repository.git("checkout", "--quiet", "HEAD", "--", *kept)
    if conflicts := repository.git("diff", "--name-only", "--diff-filter=U").splitlines():
        names = "\n".join(f"  {name}" for name in conflicts)
        raise click.ClickException(f"changed here and in Lockstep {commit[:12]}:\n{names}\n{GO_ON}")
    repository.git("commit", "--quiet", f"--message=Update Lockstep to {commit[:12]}")


def check_params(add: bool) -> bool:
    """Name the settings of this version that params.yaml lacks, and those that it has and this version does not.

    Args:
        add: whether to write those that are missing.

    Returns:
        Whether params.yaml has all settings and no other.
    """
    defaults = read_document(DEFAULTS)
    params = read_document(PARAMS, defaults)
    limits = read_document(SETTINGS).keys
    lacking = [key for key in defaults.keys if key not in params.keys and key[:-1] not in OPEN]
    unknown = [key for key in params.keys if key not in defaults.keys and key[:-1] not in OPEN]
    lines = {key: limits.get(key, defaults.keys[key]).lines for key in lacking}
    for key, (first, *_) in lines.items():
        click.echo(f"{PARAMS}: {'.'.join(key)}: {'added' if add else 'new'}: {first.strip()}")
    if lines and add:
        files.write_texts({PARAMS: with_settings(params, defaults, lines)})
    elif lines:
        click.echo("next: add these lines to params.yaml, or `make update ADD=1` does it")
    for key in unknown:
        click.echo(f"{PARAMS}: {'.'.join(key)}: this version does not know it; delete the line, see CHANGELOG.md")
    return not unknown and (add or not lacking)


def with_settings(params: Document, defaults: Document, lacking: dict[Key, list[str]]) -> str:
    """Return the text of params.yaml with keys that it lacks; a section that it lacks comes whole."""
    wanted: dict[Key, list[str] | None] = {}
    for key, lines in lacking.items():
        section = next((key[:depth] for depth in range(1, len(key)) if key[:depth] not in params.sections), None)
        if section:
            start = defaults.sections[section].start
            below = [entry for known, entry in defaults.keys.items() if known[: len(section)] == section]
            lines = defaults.lines[start : max(entry.start + len(entry.lines) for entry in below)]
        wanted[section or key] = lines
    ends = [lines for key, lines in wanted.items() if len(key) == 1]
    text = replace_lines(params, {key: lines for key, lines in reversed(wanted.items()) if len(key) > 1})
    return text + "".join("\n" + "".join(lines or []) for lines in ends)


if __name__ == "__main__":
    main()
