"""Verify that HEAD gives its own bytes: rebuild it in an empty clone and compare.

Clones HEAD into a temporary folder with an empty DVC cache, runs every stage there, and compares dvc.lock and every
file in git byte by byte. Where the project is a folder of a larger repository, all of it is cloned, and the stages
run in that folder. Run it with `make verify`, or with `python -m tools.verify`.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import click

from stages.common.params import read_yaml
from stages.report import fingerprints


@click.command(help=__doc__)
@click.option("--keep", is_flag=True, help="Keep the clone, to inspect differences.")
def main(keep: bool) -> None:
    root = Path.cwd()
    commit = output("git", "rev-parse", "HEAD", cwd=root).strip()
    repository = output("git", "rev-parse", "--show-toplevel", cwd=root).removesuffix("\n")
    inside = output("git", "rev-parse", "--show-prefix", cwd=root).removesuffix("\n")
    if output("git", "status", "--porcelain", "--", ".", cwd=root):
        click.echo("note: uncommitted changes are not verified", err=True)
    folder = Path(tempfile.mkdtemp(prefix="lockstep-verify-"))
    clone = folder / "clone" / inside
    try:
        subprocess.run(["git", "clone", "--quiet", "--", repository, str(folder / "clone")], check=True)
        subprocess.run(["git", "checkout", "--quiet", "--detach", commit], cwd=folder / "clone", check=True)
        copy_rows(root, clone)
        click.echo(f"rebuilding {commit} in {clone}")
        # --force: the clone has the metrics of the commit, so DVC would skip stages that write nothing else.
        rebuilt = subprocess.run(["dvc", "repro", "--force"], cwd=clone, env=isolated(folder), check=False)
        if rebuilt.returncode:
            raise click.ClickException("the pipeline failed in the clone; see its message above")
        differing = output("git", "diff", "--name-only", "--relative", "HEAD", cwd=clone).splitlines()
        if differing:
            changed_outs(root / "dvc.lock", clone / "dvc.lock")
            raise click.ClickException(
                f"{commit} does not give its own bytes: {', '.join(differing)} changed; run `make repro` and commit"
            )
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    click.echo(f"verified: {commit} gives its dvc.lock byte for byte")


def copy_rows(root: Path, clone: Path) -> None:
    """Copy the rows that DVC tracks (`make import`) into the clone: they are neither in git nor the out of a stage.

    Raises:
        click.ClickException: they are missing, or not those of the .dvc file.
    """
    for record in sorted((clone / "data").glob("*.dvc")):
        for out in read_yaml(record)["outs"]:
            place = Path("data", out["path"])
            source = root / place
            if not source.exists():
                raise click.ClickException(f"{place}: no such file; run `dvc pull` first")
            if fingerprints.facts(source)["md5"] != out["md5"]:
                raise click.ClickException(f"{place}: not the rows of data/{record.name}; run `dvc checkout` first")
            shutil.copyfile(source, clone / place)


def isolated(folder: Path) -> dict[str, str]:
    """Return environment variables with which DVC uses only the clone's own cache and settings."""
    places = {name: str(folder / name.lower()) for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR")}
    inherited = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "RUN")}
    return inherited | places | {"DVC_SYSTEM_CONFIG_DIR": str(folder / "dvc_system_config_dir")}


def changed_outs(recorded: Path, rebuilt: Path) -> None:
    """Print the outs whose hashes differ between two dvc.lock files, in the order of the stages."""
    before, after = (read_yaml(path)["stages"] for path in (recorded, rebuilt))
    for stage in after:
        known = {out["path"]: out["md5"] for out in before.get(stage, {}).get("outs", [])}
        for out in after[stage].get("outs", []):
            if known.get(out["path"]) != out["md5"]:
                click.echo(f"{stage}: {out['path']}: was {known.get(out['path'])}, is {out['md5']}", err=True)


def output(*command: str, cwd: Path) -> str:
    """Run a command that must succeed and return its output."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
