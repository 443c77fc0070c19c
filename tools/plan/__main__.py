"""Print what `make repro` would do and need before it starts: stages, time, memory, disk, and what does not fit.

Nothing is run and no weights are downloaded: sizes follow from the shapes of the model and the tokens of the rows,
times from earlier runs on this machine with the same settings, or else from a measurement of some seconds. Run it
with `make plan` (`JSON=1` for JSON), or with `docker/run --no-log python -m tools.plan`.
"""

from pathlib import Path

import click

from stages.common import files
from tools.plan import probe
from tools.plan.report import describe
from tools.plan.stale import find_actions
from tools.preflight import load_sections


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.option("--measure", is_flag=True, help="Measure all times now, and use no earlier run.")
def main(as_json: bool, measure: bool) -> None:
    params = Path("params.yaml")
    sections = load_sections(params)
    actions = find_actions()

    imports = probe.import_libraries()
    from tools.plan.collect import collect  # which imports them, too

    plan = collect(params, sections, actions, imports, measure)
    click.echo(files.dump_json(plan) if as_json else "\n".join(describe(plan)), nl=not as_json)


if __name__ == "__main__":
    main()
