"""Report: the plan as text."""

from collections.abc import Iterator
from typing import Any

WHY = 70  # characters of a reason


def describe(plan: dict[str, Any]) -> Iterator[str]:
    """Yield the lines: a table of stages, the totals, the batch, and the warnings."""
    about, total, batch = plan["about"], plan["total"], plan["batch"]
    yield f"{plan['device']}: {plan['device_reason']}"
    if about:
        counts = about["rows"]
        yield f"model {about['model']}: {about['weights'] / 1e6:.2f} million weights"
        yield (
            f"rows from {about['rows_from']}: {counts['train']} train, {counts['val']} val, {counts['calibration']} "
            f"calibration; {about['tokens_train']} tokens of train, the longest row {about['longest_row']}"
        )
    yield ""
    gpu = any(one["gpu_memory_bytes"] for one in plan["stages"])
    header = ("stage", "does", "time", "from", "memory", *(("GPU",) if gpu else ()), "disk", "why")
    table = [header]
    for one in plan["stages"]:
        cells = ["-"] * (len(header) - 4)
        if one["does"] == "runs":
            cells = [duration(one["seconds"]), one["seconds_from"] or "-", size(one["host_memory_bytes"])]
            cells += [size(one["gpu_memory_bytes"])] if gpu else []
        disk = size(one["disk_bytes"]) if one["disk_bytes"] != 0 else "-"
        table.append((one["stage"], one["does"], *cells, disk, one["reason"][:WHY]))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield ""
    left = f"{size(total['disk_bytes'])}, and {size(total['scratch_bytes'])} more while it runs"
    peak = f"{size(total['host_memory_bytes'])} of {size(total['memory_bytes'])}"
    if total["gpu_bytes"]:
        peak += f"; GPU {size(total['gpu_memory_bytes'])} of {size(total['gpu_bytes'])}"
    yield f"total     {duration(total['seconds'])}"
    yield f"memory    {peak}"
    yield f"disk      {left}; {size(total['disk_free_bytes'])} are free"
    yield f"download  {size(total['download_bytes']) if total['download_bytes'] != 0 else 'nothing'}"
    if batch:
        largest = batch["largest"] or "none"
        yield (
            f"batch     {batch['device_batch_size']} rows at once on a device; of {batch['rows_per_step']} in a step "
            f"{largest} fit"
        )
    for warning in plan["warnings"]:
        yield f"warning   {warning}"


def size(count: float | None) -> str:
    """Format a number of bytes."""
    if count is None:
        return "unknown"
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} B"


def duration(seconds: float | None) -> str:
    """Format seconds as a person would say them."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
