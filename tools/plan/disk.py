"""Disk: what each stage writes, whether DVC's cache needs it a second time, and what is free."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from tools.common import dvc_cache

CHECKPOINTS = 3  # of a training at once, with the one that is written; each has weights and two moments of each


class Written(NamedTuple):
    """Bytes that a stage leaves, and bytes that it needs beside them while it runs."""

    kept: float
    scratch: float = 0.0


def written(
    stored: float, prepared: float, trainable: int, merged: float, quantised: float, answers: float
) -> dict[str, Written]:
    """Return what each stage writes.

    Args:
        stored: bytes of the base model.
        prepared: bytes of data/prepared.
        trainable: weights that are trained, which are stored in float32.
        merged: bytes of the merged model.
        quantised: bytes of the quantised model.
        answers: bytes of the answers of one model.
    """
    return {
        "base": Written(stored),
        "preprocess": Written(prepared, prepared),
        "train": Written(4.0 * trainable, CHECKPOINTS * 3 * 4.0 * trainable),
        "merge": Written(merged),
        "awq": Written(quantised),
        "eval": Written(answers),
        "compare": Written(4 * answers),
        "report": Written(0),
    }


def cache_links() -> tuple[str, Path]:
    """Return how DVC's cache shares bytes with the workspace, `hardlink` or `copy`, and the cache's folder.

    It is tried, as a cache on another disk, or a file system without hard links, allows copies alone.
    """
    cache = next((folder for folder in reversed([*dvc_cache.cache_folders()]) if folder.name), Path(".dvc/cache"))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=cache, prefix=".link.") as there,
            tempfile.NamedTemporaryFile(dir=".") as file,
        ):
            os.link(file.name, Path(there) / "file")
    except OSError:
        return "copy", cache
    return "hardlink", cache


def free_bytes(folder: Path) -> int:
    """Return what is free on the disk of a folder, or of the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free
