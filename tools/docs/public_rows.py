"""Public rows: the counts of preprocess on public files of real rows, as a table for docs/data.md.

LOCKSTEP_ROWS names the folder of the files, which are not part of the project. Without it the table stays as it is.
"""

import contextlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.preprocess.__main__ import main as run_preprocess
from tools.common.project import DEFAULTS

ROOT = Path(__file__).resolve().parents[2]
ROWS = Path(os.environ.get("LOCKSTEP_ROWS", "nowhere"))
# The params that each file needs besides the defaults, as in docs/data.md.
FILES: dict[str, dict[str, Any]] = {
    "alpaca_en_demo.json": {},
    "glaive_toolcall_en_demo.json": {"max_dropped_share": 0.5},
    "gsm8k_train.jsonl": {},
    "wiki_demo.txt": {"over_length": "truncate"},
}


def public_rows_table(rows: Path = ROWS) -> str:
    """Run preprocess on each file alone, with models/base, and write the counts; empty where a file is missing."""
    if not all((rows / name).exists() for name in FILES):
        return ""
    lines = [
        "| file | format | rows in | train | val | dropped | tokens p50 / p95 / max | params |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, changes in FILES.items():
        counts = prepare(rows / name, changes)
        row_format = counts["files"][name]["format"]
        dropped = ", ".join(f"{reason} {number}" for reason, number in counts["rows_dropped"].items()) or "none"
        tokens = " / ".join(str(counts["tokens"][key]) for key in ("p50", "p95", "max"))
        settings = f"`{json.dumps(changes)}`" if changes else "defaults"
        lines.append(
            f"| {name} | {row_format} | {counts['rows_read']} | {counts['rows_train']} | {counts['rows_val']} "
            f"| {dropped} | {tokens} | {settings} |"
        )
    return "\n".join(lines)


def prepare(file: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Run preprocess on one file in a temporary folder, with some params changed, and return its metrics."""
    yaml = YAML(typ="safe", pure=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw").mkdir()
        shutil.copyfile(file, folder / "raw" / file.name)
        document = yaml.load((ROOT / DEFAULTS).read_text(encoding="utf-8"))
        document["preprocess"] |= changes
        with (folder / "params.yaml").open("w", encoding="utf-8") as params:
            yaml.dump(document, params)
        paths = {"params": "params.yaml", "raw": "raw", "benchmarks": "none", "out": "out"}
        paths |= {"metrics": "metrics.json", "lengths": "lengths.csv", "outcomes": "outcomes.csv"}
        arguments = [part for option, path in paths.items() for part in (f"--{option}", str(folder / path))]
        with contextlib.redirect_stdout(io.StringIO()):
            run_preprocess([*arguments, "--base", str(ROOT / "models" / "base")], standalone_mode=False)
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
