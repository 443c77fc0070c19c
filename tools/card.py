"""Print the model card of a run: data, settings, scores, gates, hashes and limits of use, for the model hub.

Every figure comes from the commit that recorded the run: from dvc.lock, and from metrics whose hashes it has. A
commit whose files are not of one run gets no card. Run it with `make card`, `make card REV=v1.0`, or with
`python -m tools.card`.
"""

import click

from tools.common import card, differences, repository, run


@click.command(help=__doc__)
@click.option("--rev", default="HEAD", show_default=True, help="A git revision.")
def main(rev: str) -> None:
    found = run.load(repository.recorded(rev))
    differences.refuse(found)
    click.echo(card.render(found), nl=False)


if __name__ == "__main__":
    main()
