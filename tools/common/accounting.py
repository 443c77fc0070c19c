"""Accounting: what preprocess makes of files of real rows that do not belong to the project, as a table.

The files are public; where they are not at hand, the table in docs/data.md stays as it is, and where they are, a test
compares it.
"""

import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages import preprocess

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT.parent / "shared" / "data"
# What each file needs beyond the default params, as written in docs/data.md.
FILES: dict[str, dict[str, Any]] = {
    "alpaca_en_demo.json": {},
    "glaive_toolcall_en_demo.json": {"max_dropped_share": 0.5},
    "gsm8k_train.jsonl": {"files": {"gsm8k*": {"columns": {"prompt": "question", "completion": "answer"}}}},
    "wiki_demo.txt": {"over_length": "truncate"},
}


def table(rows: Path = ROWS) -> str:
    """Run preprocess on each file alone, with models/base, and give its accounts; nothing where a file is missing."""
    if not all((rows / name).exists() for name in FILES):
        return ""
    lines = [
        "| file | form | rows in | train | val | dropped | tokens p50 / p95 / max | settings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, changes in FILES.items():
        counts = prepare(rows / name, changes)
        form = counts["files"][name]["format"]
        dropped = ", ".join(f"{reason} {number}" for reason, number in counts["rows_dropped"].items()) or "none"
        tokens = " / ".join(str(counts["tokens"][key]) for key in ("p50", "p95", "max"))
        settings = f"`{json.dumps(changes)}`" if changes else "as they are"
        lines.append(
            f"| {name} | {form} | {counts['rows_read']} | {counts['rows_train']} | {counts['rows_val']} | {dropped} "
            f"| {tokens} | {settings} |"
        )
    return "\n".join(lines)


def prepare(file: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Run preprocess in a temporary folder and give its metrics."""
    yaml = YAML(typ="safe", pure=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw").mkdir()
        shutil.copyfile(file, folder / "raw" / file.name)
        document = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        document["preprocess"] |= changes
        with (folder / "params.yaml").open("w", encoding="utf-8") as params:
            yaml.dump(document, params)
        paths = {"params": "params.yaml", "raw": "raw", "benchmarks": "none", "out": "out"}
        paths |= {"metrics": "metrics.json", "lengths": "lengths.csv", "fates": "fates.csv"}
        arguments = [part for option, path in paths.items() for part in (f"--{option}", str(folder / path))]
        with contextlib.redirect_stdout(io.StringIO()):
            preprocess.main([*arguments, "--base", str(ROOT / "models" / "base")], standalone_mode=False)
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
