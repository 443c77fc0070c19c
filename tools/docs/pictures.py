"""Pictures in docs/images, drawn from the plots and metrics of the committed run."""

import csv
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.common import files
from stages.common.scores import MODELS
from tools.common.project import LENGTHS, OUTCOMES

MARKS = ("exact_match", "rouge_l", "chrf", "stop_rate", "tasks_mean")  # from 0 to 1, higher is better
# PNG pictures of CSV tables: source, column of names, column of counts. Each picture holds the hash of its source, so
# that `--check` sees whether it is out of date.
BARS = {
    LENGTHS: (Path("metrics/lengths.csv"), "tokens", "rows"),
    OUTCOMES: (Path("metrics/outcomes.csv"), "outcome", "rows"),
}


def draw_loss(folder: Path) -> str:
    """Draw the loss curve as SVG: the same bytes for the same curve."""
    with drawing(height=3) as (axes, buffer):
        for name, label, marker in (("loss", "train", None), ("eval_loss", "val", "o")):
            rows = read_table(folder / f"{name}.tsv", "\t")
            steps, values = [int(row["step"]) for row in rows], [float(row[name]) for row in rows]
            axes.plot(steps, values, marker=marker, label=label)
        axes.set(xlabel="step", ylabel="loss per answer token", yscale="log")
        axes.legend(frameon=False)
    return buffer.getvalue()


def draw_scores(folder: Path) -> str:
    """Draw the scores of the models side by side as SVG, without those that were not measured."""
    found = {model: files.read_json(folder / f"{model}.json") for model in MODELS}
    marks = [mark for mark in MARKS if all(scores[mark] is not None for scores in found.values())]
    with drawing(height=4) as (axes, buffer):
        for place, (model, scores) in enumerate(found.items()):
            heights = [position + 0.27 * (place - 1) for position in range(len(marks))]
            bars = axes.barh(heights, [scores[mark] for mark in marks], height=0.25, label=model)
            axes.bar_label(bars, fmt="%.3f", padding=3, fontsize="small")
        axes.set_yticks(range(len(marks)), marks)
        axes.set(xlim=(0, 1.1))
        axes.invert_yaxis()
        axes.legend(frameon=False, ncols=len(found), loc="upper center", bbox_to_anchor=(0.5, 1.12))
    return buffer.getvalue()


@contextmanager
def drawing(height: float) -> Iterator[tuple[Any, io.StringIO]]:
    """Yield axes to draw on, and the buffer that holds them as SVG after the block: the same text each time."""
    pyplot, buffer, raw = load(), io.StringIO(), io.StringIO()
    with pyplot.rc_context({"svg.hashsalt": "lockstep", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure, axes = pyplot.subplots(figsize=(7, height), layout="constrained")
        axes.spines[["top", "right"]].set_visible(False)
        yield axes, buffer
        figure.savefig(raw, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    buffer.writelines(f"{line.rstrip()}\n" for line in raw.getvalue().splitlines())


def draw_bars(source: Path, names: str, values: str) -> bytes:
    """Draw a CSV table of counts as PNG, with the hash of the table in it."""
    pyplot = load()
    rows = read_table(source, ",")
    figure, axes = pyplot.subplots(figsize=(7, 0.8 + 0.26 * len(rows)), layout="constrained")
    bars = axes.barh([row[names] for row in rows], [int(row[values]) for row in rows])
    axes.bar_label(bars, padding=3)
    axes.invert_yaxis()
    axes.set(xlabel=values, ylabel=names)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Source": files.sha256(source), "Software": None})
    pyplot.close(figure)
    return buffer.getvalue()


def is_drawn_from(picture: Path, source: Path) -> bool:
    """Whether a PNG picture holds the hash that its source has now."""
    data = picture.read_bytes() if picture.exists() else b""
    at = 8  # length of the PNG signature
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"tEXt" and data[at + 8 : at + 8 + size] == b"Source\0" + files.sha256(source).encode():
            return True
        at += size + 12
    return False


def read_table(path: Path, delimiter: str) -> list[dict[str, str]]:
    """Read a CSV or TSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def load() -> Any:
    """Import pyplot for drawing without a screen."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
