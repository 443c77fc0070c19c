"""Stale stages: which would run again, and why."""

import json
import subprocess
import sys
from collections.abc import Iterator

import click

from tools import stop

NOT_CACHED = "not in cache"  # the file is that of dvc.lock, but DVC has no copy, as after `dvc repro --no-commit`


def describe_stale_stages(instead: str = "", *, cached: bool = True) -> str:
    """Tell which stages would run again, and why, in one line; "" where none would.

    Args:
        instead: see `find_stale_stages`.
        cached: whether a file that is right, but not in DVC's cache, counts.

    Raises:
        click.ClickException: see `find_stale_stages`.
    """
    stages = find_stale_stages(instead)
    if not cached:
        stages = {
            name: [cause for cause in found if not cause.endswith(NOT_CACHED)] for name, found in stages.items()
        }
    causes = (f"{stage} ({', '.join(found)})" for stage, found in stages.items() if found)
    return f"the pipeline is stale: {text}; run `make repro`" if (text := "; ".join(causes)) else ""


def find_stale_stages(instead: str = "") -> dict[str, list[str]]:
    """Find the stages that would run again, sorted, each with what changed.

    `dvc status` is asked, as DVC knows the hashes of large files.

    Args:
        instead: what else can be done while DVC is at work, for the message.

    Raises:
        click.ClickException: DVC is at work here, or cannot tell.
    """
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Unable to acquire lock" in asked.stderr:
        stages = ", ".join(one.stage for one in stop.running() if one.stage != stop.SERVE)
        raise click.ClickException(
            f"DVC is at work in this checkout{f' ({stages})' if stages else ''}, so what is stale is not known yet; "
            f"wait until it ends{instead}"
        )
    if asked.returncode:
        raise click.ClickException(f"dvc status: {' '.join(asked.stderr.split())}")
    stages = json.loads(asked.stdout)
    return {stage: list(dict.fromkeys(_causes(stages[stage]))) for stage in sorted(stages)}


def _causes(changes: list[str | dict[str, dict[str, str]]]) -> Iterator[str]:
    for change in changes:
        if isinstance(change, str):
            yield change
            continue
        for entries in change.values():
            for path, state in entries.items():
                yield f"params {', '.join(sorted(state))}" if isinstance(state, dict) else f"{path} {state}"
