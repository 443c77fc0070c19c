"""`make lineage` on a git repository with runs that DVC itself recorded: what it prints."""

import json

import pytest
from lineage_runs import lineage_json, lock_at, notes
from recorded import Recorded, commit, run
from stage_runs import succeed_in

from stages.common import files
from stages.report.figures import METRICS
from stages.report.gates import GATES
from tools.lineage import __main__ as lineage

pytestmark = pytest.mark.slow  # DVC records the runs


def test_a_revision_has_all_that_its_dvc_lock_and_metrics_say(repository: Recorded) -> None:
    folder = repository.folder
    found = lineage_json(folder, "--rev", repository.words)
    assert (found["commit"]["hash"], found["commit"]["subject"]) == (repository.first, "run")
    lock = lock_at(folder, repository.first)
    assert set(found["stages"]) == set(lock)
    for name, stage in lock.items():
        assert found["stages"][name]["cmd"] == stage["cmd"]
        assert found["stages"][name]["deps"] == stage["deps"]
        assert found["stages"][name]["outs"] == stage["outs"]
        assert found["stages"][name]["params"] == stage.get("params", {}).get("params.yaml", {})
    outs = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}
    assert {model["path"]: model["md5"] for model in found["models"].values()}.items() <= outs.items()
    weights = {entry["path"]: entry["sha256"] for entry in found["models"]["merged"]["files"]}
    assert weights["models/merged/model.safetensors"] == files.sha256(folder / "models/merged/model.safetensors")
    (rows,) = found["data"]
    assert (rows["path"], rows["sha256"]) == ("data/raw/rows.jsonl", files.sha256(folder / "data/raw/rows.jsonl"))
    assert rows["import"] == {
        "source": "rows.jsonl", "revision": rows["sha256"], "licence": "mit", "rows": rows["rows_read"]
    }  # fmt: skip
    assert found["environment"][0]["libraries"] == ["torch==2.13.0"]
    assert found["gates"] == json.loads(run(folder, "git", "show", f"{repository.first}:./metrics/gates.json"))
    assert set(METRICS) <= set(found["metrics"])
    assert found["metrics"]["train"] == json.loads((folder / "metrics/train.json").read_text(encoding="utf-8"))
    assert found["differs"] == []


def test_without_options_it_prints_heads_run(repository: Recorded) -> None:
    text = succeed_in(repository.folder, lineage.main)
    assert text.startswith(f"commit       {repository.other}  ")
    for stage in lock_at(repository.folder, "HEAD").values():
        for out in stage["outs"]:
            assert (out["md5"] in text) != out["path"].startswith("metrics/")
    for line in text.splitlines():
        if line.startswith(("file ", "data ", "environment ")):
            digest, name = line[13:].split(",")[0].split("  ")
            assert digest == files.sha256(repository.folder / name)
    assert "data/raw/rows.jsonl, 50 rows, from rows.jsonl at " in text
    assert ", licence mit\n" in text
    verdicts = lineage_json(repository.folder, "--rev", "HEAD")["gates"]
    failed = [name for name in GATES if not verdicts[name]["passed"]]
    assert f"\ngates        {len(GATES) - len(failed)} of {len(GATES)} passed; failed: {', '.join(failed)}\n" in text
    assert notes(repository.folder) == ""


def test_a_stale_workspace_is_a_note(clean: Recorded) -> None:
    metric = clean.folder / "metrics" / "awq.json"
    metric.write_text(metric.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    printed = notes(clean.folder)
    assert "note: the workspace holds another run, which is not committed" in printed
    assert "note: the workspace differs from its dvc.lock in awq, compare, report; see `dvc status`\n" in printed
    assert notes(clean.folder, "--rev", "HEAD") == ""


def test_a_licence_may_be_corrected_after_the_run(clean: Recorded) -> None:
    record = clean.folder / "data" / "rows.jsonl.dvc"
    record.write_text(record.read_text(encoding="utf-8").replace("mit", "apache-2.0"), encoding="utf-8")
    corrected = commit(clean.folder, "the right licence")
    found = lineage_json(clean.folder, "--rev", "HEAD")
    assert (found["commit"]["hash"], found["differs"]) == (corrected, [])
    assert found["data"][0]["import"]["licence"] == "apache-2.0"
    assert lineage_json(clean.folder, "--model", "awq")["commit"]["hash"] == clean.other
