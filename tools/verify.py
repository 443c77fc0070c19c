"""Prove that this commit gives these bytes: rebuild HEAD in an empty clone and compare.

Clones HEAD into an empty temporary folder with an empty DVC cache, runs every stage there, and compares dvc.lock and
every tracked file byte by byte. Run it with `make verify`, or with `python -m tools.verify`.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import click

from stages.common import fingerprints, settings


@click.command(help=__doc__)
@click.option("--keep", is_flag=True, help="Keep the clone, to look at what differs.")
def main(keep: bool) -> None:
    root = Path.cwd()
    commit = output("git", "rev-parse", "HEAD", cwd=root).strip()
    if output("git", "status", "--porcelain", cwd=root):
        click.echo("note: changes that are not committed are not verified", err=True)
    folder = Path(tempfile.mkdtemp(prefix="lockstep-verify-"))
    clone = folder / "clone"
    try:
        subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
        subprocess.run(["git", "checkout", "--quiet", "--detach", commit], cwd=clone, check=True)
        bring_rows(root, clone)
        click.echo(f"rebuilding {commit} in {clone}")
        # --force: metrics lie in git, so without it eval and report would pass as done.
        rebuilt = subprocess.run(["dvc", "repro", "--force"], cwd=clone, env=isolated(folder), check=False)
        if rebuilt.returncode:
            raise click.ClickException("the pipeline failed in a fresh clone; its own message is above")
        differing = output("git", "diff", "--name-only", "HEAD", cwd=clone).split()
        if differing:
            changed_outs(root / "dvc.lock", clone / "dvc.lock")
            raise click.ClickException(
                f"{commit} does not give its own bytes: {', '.join(differing)} changed; was `make repro` committed?"
            )
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    click.echo(f"verified: {commit} gives its dvc.lock byte for byte")


def bring_rows(root: Path, clone: Path) -> None:
    """Copy the rows that `make import` had DVC track: they are what is given, and lie neither in git nor in a stage.

    Raises:
        click.ClickException: they are missing, or not what the .dvc file says.
    """
    for record in sorted((clone / "data").glob("*.dvc")):
        for out in settings.read_yaml(record)["outs"]:
            place = Path("data", out["path"])
            source = root / place
            if not source.exists():
                raise click.ClickException(f"{place}: not here; run `dvc pull` first")
            if fingerprints.facts(source)["md5"] != out["md5"]:
                raise click.ClickException(f"{place}: not what data/{record.name} says; run `dvc checkout` first")
            shutil.copyfile(source, clone / place)


def isolated(folder: Path) -> dict[str, str]:
    """Give an environment in which DVC sees no cache and no settings but the clone's own."""
    places = {name: str(folder / name.lower()) for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR")}
    inherited = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "RUN")}
    return inherited | places | {"DVC_SYSTEM_CONFIG_DIR": str(folder / "dvc_system_config_dir")}


def changed_outs(recorded: Path, rebuilt: Path) -> None:
    """Print the outs whose hashes differ between two dvc.lock files, first stage first."""
    before, after = (settings.read_yaml(path)["stages"] for path in (recorded, rebuilt))
    for stage in after:
        known = {out["path"]: out["md5"] for out in before.get(stage, {}).get("outs", [])}
        for out in after[stage].get("outs", []):
            if known.get(out["path"]) != out["md5"]:
                click.echo(f"{stage}: {out['path']}: {known.get(out['path'])} became {out['md5']}", err=True)


def output(*command: str, cwd: Path) -> str:
    """Run a command that must succeed and give what it prints."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
