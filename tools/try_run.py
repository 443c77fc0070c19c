"""Run every stage on 32 rows and 2 steps, in a copy, so that a mistake shows before hours are spent.

The copy, in .scratch/try, has the files and settings of this checkout as they are now, and its rows. models/base
comes from DVC's cache if it has been made. The checkout itself, DVC's cache and its experiments stay as they are; the
copy and its logs are there until the next try. Run it with `make try`, or with `python -m tools.try_run`.
"""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import click

from stages.common import files
from stages.common.params import read_yaml
from tools.common import dvc_cache

COPY = Path(".scratch/try")
# Other settings stay: a mistake in them is what a try is for.
SETTINGS: dict[str, dict[str, Any]] = {
    "preprocess": {"rows": 32, "val_fraction": 0.25, "calibration_rows": 8, "max_dropped_share": 0.5},
    "train": {"keep": "last", "early_stopping": None},
    "merge": {"rows": 8},
    "awq": {"samples": 8},
    "eval": {"rows": 8, "max_new_tokens": 8, "task_rows": 8},
    "compare": {"resamples": 100},
}
STEPS = {"max_steps": 2, "logging_steps": 1, "eval_strategy": "no", "load_best_model_at_end": False}


@click.command(help=__doc__)
def main() -> None:
    root, begin = Path.cwd(), time.monotonic()
    inside = output("git", "rev-parse", "--show-prefix").removesuffix("\n")
    shutil.rmtree(COPY, ignore_errors=True)
    clone = COPY / inside
    repository = output("git", "rev-parse", "--show-toplevel").removesuffix("\n")
    subprocess.run(["git", "clone", "--quiet", "--", repository, str(COPY)], check=True)
    copy_files(root, clone)
    params = read_yaml(Path("params.yaml"))
    files.write_json(clone / "params.yaml", smaller(params))  # JSON is YAML
    cache = str(next(dvc_cache.cache_folders()).absolute())
    subprocess.run(["dvc", "config", "--local", "--", "cache.dir", cache], cwd=clone, check=True)
    inherited = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "RUN")}
    # --no-commit: nothing of the copy goes into DVC's cache.
    done = subprocess.run(
        ["dvc", "repro", "--no-commit"],
        cwd=clone,
        env=inherited | {"VENV": os.environ.get("VENV", str(root / ".venv"))},
        check=False,
    )
    for name, seconds in stage_seconds(clone):
        click.echo(f"{name:14} {seconds:7.1f} s")
    if done.returncode:
        raise click.ClickException(f"a stage failed, see its message above; the logs are in {clone}/logs")
    seconds = time.monotonic() - begin
    click.echo(f"every stage ran, in {seconds:.0f} s; the copy is in {clone}, and this checkout is as before")


def smaller(params: dict[str, Any]) -> dict[str, Any]:
    """Return the params with fewer rows and steps."""
    found = {name: section | SETTINGS.get(name, {}) for name, section in params.items()}
    found["train"]["sft"] = found["train"]["sft"] | STEPS
    if found["base"]["source"] == "tiny" and not Path("models/base").exists():
        found["base"]["tiny"] = found["base"]["tiny"] | {"steps": 10}
    return found


def copy_files(root: Path, clone: Path) -> None:
    """Bring the files of the checkout into the clone: changed ones, new ones, and rows that git does not know."""
    listed = output("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        (clone / name).unlink(missing_ok=True)
        if (root / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, clone / name)
    shutil.copytree(root / "data" / "raw", clone / "data" / "raw", dirs_exist_ok=True)


def stage_seconds(clone: Path) -> list[tuple[str, float]]:
    """Return the seconds of each stage that ran, in their order."""
    facts = [json.loads(path.read_text(encoding="utf-8")) for path in clone.glob("logs/*/*/runtime.json")]
    found = zip((path.parent.name for path in clone.glob("logs/*/*/runtime.json")), facts, strict=True)
    return [(name, one["seconds"]) for name, one in sorted(found, key=lambda pair: pair[1]["started"])]


def output(*command: str) -> str:
    """Run a command that must succeed and return its output."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
