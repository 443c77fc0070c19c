"""Write the review of a run against a revision: Markdown for a pull request or a merge request.

Compares the run in the workspace with the one of a revision: settings, scores with intervals, gates, rows, answers,
curves, sizes and times. The text fits in a comment of GitHub or GitLab, where `make comment` puts it. It judges
nothing: `make gate` does. Run it with `make review REV=main OUT=review.md`, or with `python -m tools.review`.
"""

from pathlib import Path

import click

from stages.common import files
from tools.common import repository
from tools.common.stale_stages import find_stale_stages
from tools.review import sections
from tools.review.markdown import Limits, code
from tools.review.run_facts import RunFacts, read_commit, read_workspace
from tools.review.sections import Pair
from tools.summary import stages_since

MARK = "<!-- lockstep review -->"  # `make comment` finds the comment to replace by it
MAX_CHARACTERS = 65_536  # of a comment on GitHub; GitLab takes a million
# The first that fits is taken.
LIMITS = (Limits(40, 10, 300), Limits(30, 6, 150), Limits(20, 4, 80), Limits(8, 2, 40))


@click.command(help=__doc__)
@click.option("--rev", default="main", show_default=True, help="A git revision to compare with.")
@click.option("--out", type=click.Path(path_type=Path), help="A file to write instead of the terminal.")
def main(rev: str, out: Path | None) -> None:
    # Inputs
    commit = repository.resolve(rev)
    now, before = read_workspace(), read_commit(commit)
    stale = list(find_stale_stages())

    # Work
    pairs = {model: Pair(model, before, now) for model in sections.TUNED}
    seconds = {name: facts["seconds"] for name, facts in stages_since(0).items() if "seconds" in facts}
    versions = (render(before, now, (rev, commit), pairs, stale, seconds, limits) for limits in LIMITS)
    text = next((one for one in versions if len(one) <= MAX_CHARACTERS), None)
    if text is None:
        raise click.ClickException(f"the review is longer than {MAX_CHARACTERS} characters in its shortest form")

    # Outputs
    if out:
        files.write_texts({out: text})
    else:
        click.echo(text, nl=False)


def render(
    before: RunFacts,
    now: RunFacts,
    revision: tuple[str, repository.Commit],
    pairs: dict[str, Pair],
    stale: list[str],
    seconds: dict[str, float],
    limits: Limits,
) -> str:
    """Write the review.

    Args:
        before: the run of the revision.
        now: the run of the workspace.
        revision: its name and its commit.
        pairs: the rows that awq and merged answered in both runs.
        stale: stages of the workspace that would run again.
        seconds: how long the stages of the last run took.
        limits: how much to show.
    """
    rev, commit = revision
    name = code(rev if len(rev) <= 24 else f"{rev[:12]}…", 24)
    verdicts = now.metrics.get("gates", {})
    failed = [code(gate, 80) for gate, verdict in verdicts.items() if not verdict["passed"]]
    verdict = f"**{len(verdicts) - len(failed)} of {len(verdicts)} gates passed**"
    parts = {
        "": [
            f"{verdict}; failed: {', '.join(failed)}." if failed else f"{verdict}.",
            *notes(before, now, name, pairs, stale),
        ],
        "What changed": sections.settings(before, now, name, limits),
        "Gates": sections.gates(before, now, name),
        "Scores": [*sections.scores(before, now, name, pairs), *sections.gains(before, now, name)],
        "Rows": sections.data(before, now, name, limits),
        "Answers": sections.answers(pairs["awq"], name, limits),
        "More": [
            *sections.curves(before, now, name),
            *sections.sizes_and_times(before, now, name, seconds),
            *sections.measurements(before, now, name, limits),
        ],
    }
    title = f"## The model of this change, against {name} ({commit[:8]})"
    body = (
        f"### {heading}\n\n" * bool(heading) + "\n".join(lines).strip() for heading, lines in parts.items() if lines
    )
    return "\n\n".join([MARK, title, *body]) + "\n"


def notes(before: RunFacts, now: RunFacts, name: str, pairs: dict[str, Pair], stale: list[str]) -> list[str]:
    """Say what keeps the figures from being those of this change, or from being compared."""
    found = []
    if stale:
        shown = ", ".join(code(stage, 80) for stage in stale)
        found.append(f"These figures are of an earlier state: {shown} would run again. Run `make repro` first.")
    if not before.stages:
        found.append(f"{name} has no run to compare with.")
    elif now.stages == before.stages:
        found.append(f"The run is that of {name}: every stage has the same inputs and the same bytes.")
    if before.stages and "awq" not in before.answers:
        found.append(
            f"The answers of {name} are in neither DVC's cache nor its remote, so changes have no intervals."
        )
    elif before.stages and not pairs["awq"].asked:
        found.append(f"No val row is one of {name}, so changes have no intervals: the scores are of other questions.")
    return [line for note in found for line in ("", f"> {note}")]


if __name__ == "__main__":
    main()
