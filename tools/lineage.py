"""Print where the model came from: the commit that recorded it, and the hashes of everything it was made of.

Reads metrics/lineage.json at a git revision. A file inside a commit cannot name that commit; git can. Run it with
`make lineage`, `make lineage REV=v1.0`, or with `python -m tools.lineage`.
"""

import json
import subprocess

import click

FILE = "metrics/lineage.json"


@click.command(help=__doc__)
@click.option("--rev", default="HEAD", show_default=True, help="Any git revision.")
def main(rev: str) -> None:
    commit = git("log", "-1", "--format=%H", rev, "--", FILE).strip()
    if not commit:
        raise click.ClickException(f"{FILE}: not committed at {rev}; run `make repro` and commit")
    click.echo(f"commit: {commit}")
    if rev == "HEAD" and git("status", "--porcelain", "--", FILE):
        click.echo("note: the workspace holds another model, not committed yet", err=True)
    click.echo(json.dumps(json.loads(git("show", f"{commit}:{FILE}")), indent=2))


def git(*arguments: str) -> str:
    """Run git in the current folder and give what it prints."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
