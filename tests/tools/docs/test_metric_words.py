"""The list of metrics: every key of a run has its meaning, and a key without one is an error."""

import json
import shutil
from pathlib import Path

import click
import pytest

from tools.docs.metric_words import WORDS, keys, metrics_table

ROOT = Path(__file__).resolve().parents[3]


def test_every_metric_of_the_committed_run_has_a_meaning() -> None:
    table = metrics_table(ROOT / "metrics")
    for file, words in WORDS.items():
        assert f"| `metrics/{file}` | `{next(iter(words)).replace('*', 'NAME')}` | " in table


def test_every_metrics_file_is_listed() -> None:
    found = {path.relative_to(ROOT / "metrics").as_posix() for path in (ROOT / "metrics").rglob("*.json")}
    listed = {file.replace("MODEL", model) for file in WORDS for model in ("base", "merged", "awq")}
    assert found - {"serve.json"} <= listed


def test_a_metric_without_a_meaning_is_an_error(tmp_path: Path) -> None:
    metrics = shutil.copytree(ROOT / "metrics", tmp_path / "metrics", ignore=shutil.ignore_patterns("*.jsonl"))
    scores = json.loads((metrics / "merge.json").read_text(encoding="utf-8"))
    (metrics / "merge.json").write_text(json.dumps(scores | {"new_one": 1}), encoding="utf-8")
    with pytest.raises(click.ClickException, match=r"merge.json: new_one: no meaning in tools/docs/metric_words.py"):
        metrics_table(metrics)


def test_keys_are_those_of_nested_objects() -> None:
    assert list(keys({"a": 1, "b": {"c": 2, "d": {}}, "e": [3]})) == ["a", "b.c", "e"]
