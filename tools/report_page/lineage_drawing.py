"""Lineage drawing: what a run was made from, as boxes and arrows. templates/charts.html writes it as SVG.

An arrow that a longer way of arrows stands for is left out: what a stage needs by way of another has none of its own.
"""

from typing import Any

from tools.common.recorded_run import Run

BOX = (136, 50)  # width and height
GAP = (36, 22)  # between boxes: along the arrows, and across
Arrows = dict[str, set[str]]


def draw_lineage(run: Run, downward: bool) -> dict[str, Any]:
    """Place the boxes of rows and stages in the order in which they need each other.

    Args:
        run: from `load_run`.
        downward: the arrows lead down, for a narrow screen, and not to the right.
    """
    boxes = {f"data:{entry['path']}": _data_box(entry) for entry in run["data"][:3]}
    boxes |= {name: _stage_box(name, run) for name in run["stages"]}
    arrows = shortest(needed(run, boxes))
    ranks = ranked(arrows)
    columns: list[list[str]] = [[] for _ in range(max(ranks.values(), default=-1) + 1)]
    for name in boxes:
        columns[ranks[name]].append(name)
    widest = max((len(column) for column in columns), default=1)
    pitch = (BOX[1] if downward else BOX[0]) + GAP[0], (BOX[0] if downward else BOX[1]) + GAP[1]
    for rank, column in enumerate(columns):
        # Boxes with a long arrow lie outside, where it passes no other box.
        far = sorted(column, key=lambda name: min((ranks[one] for one in arrows[name]), default=0))
        for place, name in enumerate(far[::2] + far[1::2][::-1]):
            along, across = rank * pitch[0], (place + (widest - len(column)) / 2) * pitch[1]
            boxes[name]["x"], boxes[name]["y"] = (across, along) if downward else (along, across)
    size = len(columns) * pitch[0] - GAP[0], widest * pitch[1] - GAP[1]
    width, height = (size[1], size[0]) if downward else size
    lines = [_line(boxes[one], boxes[name], downward) for name, ones in arrows.items() for one in sorted(ones)]
    in_order = sorted(run["stages"], key=lambda name: ranks[name])
    drawn = {"boxes": list(boxes.values()), "lines": lines, "width": width, "height": height}
    return drawn | {"box": BOX, "gap": GAP[0], "stages": in_order}


def needed(run: Run, boxes: dict[str, Any]) -> Arrows:
    """Return for each box those that it needs, by the paths that stages read and write."""
    writers = {out["path"]: name for name, stage in run["stages"].items() for out in stage["outs"]}
    found: Arrows = {name: set() for name in boxes}
    for name, stage in run["stages"].items():
        for dep in stage["deps"]:
            path = dep["path"]
            found[name] |= {one for out, one in writers.items() if f"{path}/".startswith(f"{out}/") and one != name}
            found[name] |= {one for one in boxes if one.startswith(f"data:{path}")}
    return found


def shortest(arrows: Arrows) -> Arrows:
    """Leave out the arrows that a way of other arrows stands for."""

    def behind(name: str) -> set[str]:
        return arrows[name].union(*(behind(one) for one in arrows[name]))

    return {
        name: {one for one in ones if not any(one in behind(other) for other in ones)}
        for name, ones in arrows.items()
    }


def ranked(arrows: Arrows) -> dict[str, int]:
    """Return the place of each box in the order: as late as those that need it allow."""
    users = {name: [user for user, ones in arrows.items() if name in ones] for name in arrows}

    def left(name: str) -> int:
        return max((left(user) + 1 for user in users[name]), default=0)

    longest = max((left(name) for name in arrows), default=0)
    return {name: longest - left(name) for name in arrows}


def _data_box(entry: dict[str, Any]) -> dict[str, Any]:
    name = entry["path"].removeprefix("data/raw/")
    lines = [f"{entry['rows_read']:,} rows", f"sha256 {entry['sha256'][:8]}"]
    return {
        "kind": "data",
        "name": name if len(name) < 18 else f"{name[:16]}…",
        "lines": lines,
        "told": entry["path"],
    }


def _stage_box(name: str, run: Run) -> dict[str, Any]:
    outs = run["stages"][name]["outs"]
    out = next((out for out in outs if not out["path"].startswith("metrics/")), outs[0] if outs else None)
    lines = [out["path"] if len(out["path"]) < 20 else out["path"].rpartition("/")[2], out["md5"][:8]] if out else []
    return {
        "kind": "stage",
        "name": name,
        "lines": lines,
        "told": f"{name} writes {out['path'] if out else 'nothing'}",
    }


def _line(one: dict[str, Any], other: dict[str, Any], downward: bool) -> dict[str, float]:
    width, height = BOX
    if downward:
        return {
            "x1": one["x"] + width / 2,
            "y1": one["y"] + height,
            "x2": other["x"] + width / 2,
            "y2": other["y"],
        }
    return {"x1": one["x"] + width, "y1": one["y"] + height / 2, "x2": other["x"], "y2": other["y"] + height / 2}
