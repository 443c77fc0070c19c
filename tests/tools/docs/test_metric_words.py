"""The list of metrics: every key of the committed run has its meaning."""

import json
import shutil
from pathlib import Path

import needs

from tools.docs.metric_words import WORDS, keys, metrics_table, without_meaning

ROOT = Path(__file__).resolve().parents[3]


def test_every_metric_of_the_committed_run_has_a_meaning() -> None:
    needs.default()
    assert without_meaning(ROOT / "metrics") == []
    table = metrics_table()
    for file, words in WORDS.items():
        assert f"| `metrics/{file}` | `{next(iter(words)).replace('*', 'NAME')}` | " in table


def test_every_metrics_file_is_listed() -> None:
    needs.default()
    found = {path.relative_to(ROOT / "metrics").as_posix() for path in (ROOT / "metrics").rglob("*.json")}
    listed = {file.replace("MODEL", model) for file in WORDS for model in ("base", "merged", "awq")}
    assert found - {"serve.json"} <= listed


def test_a_metric_without_a_meaning_is_found(tmp_path: Path) -> None:
    needs.default()
    metrics = shutil.copytree(ROOT / "metrics", tmp_path / "metrics", ignore=shutil.ignore_patterns("*.jsonl"))
    scores = json.loads((metrics / "merge.json").read_text(encoding="utf-8"))
    (metrics / "merge.json").write_text(json.dumps(scores | {"new_one": 1}), encoding="utf-8")
    assert without_meaning(metrics) == [f"{metrics / 'merge.json'}: new_one"]


def test_keys_are_those_of_nested_objects() -> None:
    assert list(keys({"a": 1, "b": {"c": 2, "d": {}}, "e": [3]})) == ["a", "b.c", "e"]
