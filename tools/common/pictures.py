"""Pictures of the documentation, drawn from the plots of the committed run."""

import csv
import io
import struct
from pathlib import Path
from typing import Any

from stages.common import files

LOSS = Path("docs/images/loss.svg")
# Drawn as PNG; the picture holds the hash of the file that it was drawn from, by which `--check` knows its age.
BARS = {
    Path("docs/images/lengths.png"): (Path("metrics/lengths.csv"), "tokens", "rows"),
    Path("docs/images/fates.png"): (Path("metrics/fates.csv"), "fate", "rows"),
}


def draw_loss(folder: Path) -> str:
    """Draw the training curve as SVG, the same bytes for the same curve."""
    pyplot = load()
    with pyplot.rc_context({"svg.hashsalt": "lockstep", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
        for name, label, marker in (("loss", "train", None), ("eval_loss", "val", "o")):
            rows = read_table(folder / f"{name}.tsv", "\t")
            steps, values = [int(row["step"]) for row in rows], [float(row[name]) for row in rows]
            axes.plot(steps, values, marker=marker, label=label)
        axes.set(xlabel="step", ylabel="loss per answer token", yscale="log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def draw_bars(source: Path, names: str, values: str) -> bytes:
    """Draw a CSV table of counts as PNG, with the source's hash in it."""
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
    """Whether a PNG picture holds the hash of its source as it is now."""
    data = picture.read_bytes() if picture.exists() else b""
    at = 8  # the signature's bytes
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
    """Import pyplot without a screen."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
