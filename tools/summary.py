"""Print what a run of the pipeline made: rows, scores, gates, sizes, times, and what to do next.

After a run that failed: the stage, the last lines of its log, and where the log is. `make repro` prints it at its
end; alone, `python -m tools.summary` shows the state of the workspace.
"""

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from stages.common import files
from stages.common.scores import MODELS
from tools.common.judged_run import read_verdicts
from tools.common.terminal import visible

LOGS = Path("logs")
STOPPED = 128  # a higher exit code is that and the number of a signal
LAST = 12  # lines of the log of a stage that failed
BAR = re.compile(r"\d+%\|")  # a progress bar


@click.command(help=__doc__)
@click.option("--since", default=0.0, help="Only stages that started after this second of the epoch.")
@click.option("--code", default=0, help="The exit code of the run; this command exits with it.")
def main(since: float, code: int) -> None:
    ran = stages_since(since)
    if code:
        for line in describe_failure(ran):
            click.echo(line, err=True)
        sys.exit(code)
    try:
        lines = list(describe(Path("metrics"), ran))
    except (KeyError, TypeError, ValueError) as error:
        problem = f"no `{error.args[0]}`" if isinstance(error, KeyError) else str(error)
        raise click.ClickException(f"metrics: {problem}: not the metrics of this code; run `make repro`") from None
    for title, text in lines:
        click.echo(f"{title:10} {text}")


def stages_since(since: float) -> dict[str, dict[str, Any]]:
    """Return the facts of each stage of the latest run, by name, in the order of their starts.

    Args:
        since: seconds of the epoch; stages that started before are left out.
    """
    latest = LOGS / "latest.txt"
    folder = LOGS / latest.read_text(encoding="utf-8").strip() if latest.exists() else LOGS
    found = {path.parent.name: files.read_json(path) for path in folder.glob("*/runtime.json")}
    first = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since))
    kept = {
        name: facts | {"log": folder / name / "console.log"}
        for name, facts in found.items()
        if facts["started"] >= first
    }
    return dict(sorted(kept.items(), key=lambda pair: pair[1]["started"]))


def describe(metrics: Path, ran: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield title and text of each line.

    Raises:
        click.ClickException: a metrics file is missing or damaged.
    """
    rows, train, compared = (files.read_json(metrics / f"{name}.json") for name in ("preprocess", "train", "compare"))
    scores = {model: files.read_json(metrics / "eval" / f"{model}.json") for model in MODELS}
    awq, merge = files.read_json(metrics / "awq.json"), files.read_json(metrics / "merge.json")
    gates = read_verdicts()
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(rows["rows_dropped"].items()))
    yield (
        "rows",
        f"{rows['rows_read']} read, {rows['rows_kept']} kept ({rows['rows_train']} train, {rows['rows_val']} val)"
        f"; dropped: {dropped or 'none'}",
    )
    yield "training", f"loss on val {train['eval_loss']:.4g}"
    for score in ("exact_match", "chrf", "perplexity"):
        parts = [f"{model} {shown(scores[model][score])}" for model in MODELS]
        gain = compared["merged_base"].get(score)
        if gain and gain["low"] is not None:
            parts.append(f"merged - base {gain['difference']:+.4g} ({gain['low']:.4g} to {gain['high']:.4g})")
        yield score.replace("_", " "), ", ".join(parts)
    yield "kept", f"of the fine-tuning: merged {shown(merge['kept'])}, awq {shown(awq['kept'])}"
    yield (
        "weights",
        f"merged {size(awq['merged_size_bytes'])}, awq {size(awq['size_bytes'])} ({awq['size_ratio']:.2g})",
    )
    failed = [name for name, verdict in gates.items() if not verdict["passed"]]
    yield (
        "gates",
        f"{len(gates) - len(failed)} of {len(gates)} passed" + (f"; FAILED: {', '.join(failed)}" if failed else ""),
    )
    times = ", ".join(f"{name} {facts['seconds']:.0f} s" for name, facts in ran.items())
    yield "time", times or "nothing ran: every stage was up to date"
    yield "answers", f"side by side in {metrics / 'eval' / 'answers.html'}"
    step = "`make gate` says what to check" if failed else "`git commit` this run, then `make serve`"
    yield "next", step


def describe_failure(ran: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the lines that tell which stage failed, and why; none where no stage did."""
    failed = [(name, facts) for name, facts in ran.items() if facts["exit_code"]]
    if not failed:
        return
    name, facts = failed[-1]
    code, log = facts["exit_code"], facts["log"]
    if code < 0 or code > STOPPED:
        yield f"\n{name} was stopped after {facts['seconds']:.0f} s; the same command goes on from there"
        return
    yield f"\n{name} failed (exit code {code}) after {facts['seconds']:.0f} s; the end of {log}:"
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip() and not BAR.search(line)]
    yield from (f"  {visible(line)}" for line in lines[-LAST:])
    yield f"the same command goes on from {name}; docs/debugging.md has the way to a cause"


def shown(value: float | None) -> str:
    """Format a score; a dash where it was not measured."""
    return "-" if value is None else f"{value:.4g}"


def size(count: int) -> str:
    """Format a number of bytes."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


if __name__ == "__main__":
    main()
