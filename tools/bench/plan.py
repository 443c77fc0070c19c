"""Compare what `make plan` says with what the last run on this machine took, stage by stage: time and peak memory.

The times are measured as if there were no earlier run; the run itself is read from logs/, and must have had the
settings of now. Run it after `make repro`, with `make bench`, or with `docker/run --no-log python -m
tools.bench.plan`.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import click

from tools.plan import probe, seconds
from tools.plan.stale import RUNS, Action, find_actions
from tools.preflight import load_sections


@click.command(help=__doc__)
def main() -> None:
    imports = probe.import_libraries()
    from tools.plan.collect import collect  # which imports them, too

    params = Path("params.yaml")
    actions = {name: Action(RUNS, "as in a fresh clone", True) for name in find_actions()}
    runs = {name: last_run(name, params) for name in actions}
    if missing := [name for name, run in runs.items() if not run]:
        click.echo(f"note: logs has no run of {', '.join(missing)} with these settings; `make repro` makes one")
    actions = {name: action for name, action in actions.items() if runs[name]}
    if not actions:
        return
    plan = collect(params, load_sections(params), actions, imports, measure=True)
    click.echo(f"{'stage':12}  {'planned':>8}  {'took':>8}  {'':>5}  {'planned':>8}  {'took':>8}")
    memory = []
    for one in plan["stages"]:
        run: Any = runs[one["stage"]]
        memory.append(one["host_memory_bytes"] / run["peak_memory_bytes"])
        click.echo(
            f"{one['stage']:12}  {one['seconds']:6.1f} s  {run['seconds']:6.1f} s  "
            f"{one['seconds'] / run['seconds']:5.2f}  {one['host_memory_bytes'] / 1e6:5.0f} MB  "
            f"{run['peak_memory_bytes'] / 1e6:5.0f} MB  {memory[-1]:5.2f}"
        )
    total = sum(run["seconds"] for run in runs.values() if run)
    ratio = plan["total"]["seconds"] / total
    click.echo(f"all stages: {plan['total']['seconds']:.0f} s planned, {total:.0f} s took, {ratio:.2f} (0.67 to 1.5)")
    click.echo(f"memory: {statistics.median(memory):.2f} in the middle, {min(memory):.2f} to {max(memory):.2f}")
    for warning in plan["warnings"]:
        click.echo(f"note: {warning}")


def last_run(stage: str, params: Path) -> dict[str, Any]:
    """Read the facts of the newest whole run of a stage with these settings; empty where there is none."""
    found = seconds.earlier(stage, params, Path("data/raw"))
    if not found:
        return {}
    facts: dict[str, Any] = json.loads(Path(found.known, stage, "runtime.json").read_text(encoding="utf-8"))
    return facts


if __name__ == "__main__":
    main()
