"""Propose limits for the gates, from the figures of the run in metrics/, each with its reason.

Prints the section `gates` of params.yaml with a comment above each gate: its limit now and the proposed one, the
figure of this run, and why. A limit is the worse end of the confidence interval that the metrics hold of a figure, or
else a tenth from it (docs/report.md). A gate that is null or relative to a revision stays as it is. With --apply the
proposals go into params.yaml; all other bytes of it stay. Run it with `make gates`, `make gates APPLY=1`, or with
`python -m tools.propose`.
"""

import io
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import click
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from stages.common import files
from stages.common.params import load_params
from stages.report.figures import METRICS
from stages.report.gates import GATES
from stages.report.params import GatesParams, Limit
from stages.report.verdicts import cannot_be_judged, measure
from tools.common.fitted_limits import fit_limit
from tools.common.recorded_run import Run, load_workspace
from tools.recipe.overlays import Document, Key, read_document, replace_lines

PARAMS = Path("params.yaml")
# A limit that a useless model would pass as well is none: no gain, no share kept, no smaller, no better than base.
USELESS = {
    "merge_kept": 0,
    "merge_top1_agreement": 0,
    "merged_exact_match_gain": 0,
    "merged_chrf_gain": 0,
    "merged_perplexity_ratio": 1,
    "merged_stop_rate": 0,
    "awq_exact_match_gain": 0,
    "awq_kept": 0,
    "awq_base_perplexity_ratio": 1,
    "awq_size_ratio": 1,
    "awq_stop_rate": 0,
}


class Proposal(NamedTuple):
    """What to do about a gate: the new limit (None: null) and why; `keep`: its limit stays."""

    limit: float | None
    why: str
    keep: bool = False


@click.command(help=__doc__)
@click.option("--apply", is_flag=True, help="Write the proposals into params.yaml.")
def main(apply: bool) -> None:
    # Inputs
    limits = load_params(PARAMS, "gates", GatesParams)
    before = read_document(PARAMS, read_document(Path("recipes", "tiny.yaml")))
    run = load_workspace((*METRICS, "compare"))

    # Work
    proposals = {name: propose(name, getattr(limits, name), run) for name in GATES}
    wanted: dict[Key, list[str] | None] = {
        ("gates", name): with_limit(before.keys[("gates", name)].lines, GATES[name].better, proposal)
        for name, proposal in proposals.items()
        if not proposal.keep
    }
    text = replace_lines(before, wanted)

    # Outputs
    for line in block(limits, proposals, run, wanted, before):
        click.echo(line)
    if not apply:
        click.echo(f"# `make gates APPLY=1` writes this into {PARAMS}")
    elif text == "".join(before.lines):
        click.echo(f"# {PARAMS}: already holds these limits")
    else:
        files.write_texts({PARAMS: text})
        click.echo(f"# {PARAMS}: {len(wanted)} limits written; next: `git diff {PARAMS}`, then `make repro`")


def propose(name: str, limit: Limit | None, run: Run) -> Proposal:
    """Propose the limit of one gate.

    Args:
        name: the gate.
        limit: the one in params.yaml.
        run: the run of the workspace.
    """
    metrics = run["metrics"]
    value = measure(name, metrics)
    problem = cannot_be_judged(name, metrics, value)
    if limit is None:
        return Proposal(None, "left out in params.yaml, and so it stays", keep=True)
    if limit.not_worse_than is not None:
        return Proposal(None, f"relative to {limit.not_worse_than}, and so it stays", keep=True)
    if value is None:
        return Proposal(None, f"cannot be judged: {problem}, or leave the gate out")
    if problem:
        return Proposal(None, f"cannot be judged, so its limit stays: {problem}", keep=True)
    try:
        number, why = fit_limit(name, run)
    except click.ClickException as error:
        return Proposal(None, f"its limit stays: {error.message}", keep=True)
    useless = USELESS.get(name)
    if useless is not None and (number <= useless if GATES[name].better == "min" else number >= useless):
        return Proposal(
            None, f"its limit stays, as a useless model would pass {shown(name, number)}: {why}", keep=True
        )
    same = number == (limit.min if GATES[name].better == "min" else limit.max)
    return Proposal(number, why, keep=same)


def block(
    limits: GatesParams,  # type: ignore[valid-type]
    proposals: dict[str, Proposal],
    run: Run,
    wanted: dict[Key, list[str] | None],
    before: Document,
) -> list[str]:
    """Write the section `gates` as YAML, with a comment above each gate."""
    lines = ["gates:"]
    for name, proposal in proposals.items():
        value = measure(name, run["metrics"])
        now = written(getattr(limits, name))
        new = now if proposal.keep else "null" if proposal.limit is None else shown(name, proposal.limit)
        figure = "not measured" if value is None else f"{value:g}"
        figure += ", which fails" if fails(value, getattr(limits, name)) else ""
        lines.append(f"  # {now} -> {new}; this run: {figure}; {proposal.why}")
        key = ("gates", name)
        kept = wanted.get(key) or before.keys[key].lines
        lines += textwrap.indent(textwrap.dedent("".join(kept)), "  ").rstrip("\n").split("\n")
    return lines


def fails(value: float | None, limit: Limit | None) -> bool:
    """Whether a value is beyond its limit in params.yaml."""
    if value is None or limit is None:
        return False
    return (limit.min is not None and value < limit.min) or (limit.max is not None and value > limit.max)


def shown(name: str, number: float) -> str:
    """Write a proposed limit as in params.yaml, without the reason."""
    return f"{GATES[name].better} {number:g}"


def written(limit: Limit | None) -> str:
    """Write a limit of params.yaml without its reason."""
    if limit is None:
        return "null"
    found = {name: value for name, value in limit.model_dump().items() if name != "reason" and value is not None}
    return " ".join(f"{name} {value}" for name, value in found.items())


def with_limit(lines: list[str], better: str, proposal: Proposal) -> list[str]:
    """Return the lines of a gate with another limit and reason; comments, quotes and the layout stay.

    Args:
        lines: those of the gate in params.yaml.
        better: `min` or `max`.
        proposal: its limit and why.
    """
    yaml = YAML(typ="rt", pure=True)
    yaml.width, yaml.preserve_quotes = 10**6, True
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    document = yaml.load(textwrap.dedent("".join(lines)))
    ((name, entry),) = document.items()
    if proposal.limit is None:
        comment = document.ca.items.get(name, [None] * 4)[2]
        old = f"; {comment.value.strip('# ').rstrip()}" if comment else ""
        document[name] = None
        document.yaml_add_eol_comment(f"{proposal.why}{old}", name)
    else:
        assert isinstance(entry, CommentedMap)  # a gate that is null stays so
        number: Any = int(proposal.limit) if proposal.limit == int(proposal.limit) else proposal.limit
        other = "max" if better == "min" else "min"
        if other in entry:
            entry.insert(list(entry).index(other), better, number)
            del entry[other]
        entry[better] = number
        entry["reason"] = DoubleQuotedScalarString(proposal.why)
    text = io.StringIO()
    yaml.dump(document, text)
    return text.getvalue().splitlines(keepends=True)


if __name__ == "__main__":
    main()
