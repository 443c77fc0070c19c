"""Print the model card of a committed run: data, settings, scores, gates, hashes and limits of use.

The card has the form of the model hub. Every figure comes from the commit that records the run: from dvc.lock, and
from the metrics that dvc.lock has the hash of. A commit whose files are of more than one run gets no card. Run it
with `make card`, `make card REV=v1.0`, or with `python -m tools.card`.
"""

import click

from tools.card.model_card import render_card
from tools.common import repository
from tools.common.judged_run import load_judged
from tools.common.recorded_run import require_one_run


@click.command(help=__doc__)
@click.option("--rev", default="HEAD", show_default=True, help="A git revision.")
def main(rev: str) -> None:
    run = load_judged(repository.recorded(rev))
    require_one_run(run)
    click.echo(render_card(run), nl=False)


if __name__ == "__main__":
    main()
