"""`make card`: every figure and hash in it comes from the run, and every figure of the run is in it."""

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from recorded import METRICS, Recorded, commit, run
from stage_runs import ROOT, fail_in, succeed_in

from tools.card import __main__ as card
from tools.card.model_card import by_row, render_card
from tools.common import repository as git
from tools.common.model_facts import cell, flat, limits_of_use
from tools.common.recorded_run import load_run

NUMBER = re.compile(r"(?<![\w.])-?\d[\d.]*(?:e[-+]?\d+)?")  # p95 and sha256 are names
HASH = re.compile(r"\b[0-9a-f]{32,64}(?:\.dir)?")
# What the card leaves out: the hash of the commit covers it, or another part of the card has it.
HIDDEN = re.compile(
    r"""commit\.subject | differs.* | rows\..* | files\..* | stages\.\S+\.(cmd|deps|outs)\b.* | stages\.report\..*
    | stages\.eval@(base|merged)\..*
    | (data|environment)\.0\.(md5|size_bytes|rows_dropped.*|libraries.*|import\.rows)
    | models\.\w+\.size_bytes | models\.(base|adapter|merged)\.files\..* | models\.awq\.files\.\d+\.(md5|size_bytes)
    | metrics\.preprocess\.(examples|files)\..*
    | stages\.base\.params\.base\.gguf\..*  # of another source
    | stages\.base\.params\.base\.source""",  # decides which sentence is shown
    re.VERBOSE,
)

pytestmark = pytest.mark.slow  # DVC records the runs


@pytest.fixture
def found(repository: Recorded, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the repository's first commit says of its run."""
    monkeypatch.chdir(repository.folder)
    found = load_run(git.Commit(repository.first))
    found["metrics"].setdefault("compare", METRICS["compare"])
    return found


def marked(value: Any, path: str, marks: list[str]) -> Any:
    """Replace every number and text that the card should show by a mark that occurs nowhere else."""
    if isinstance(value, dict):
        return {key: marked(one, f"{path}.{key}", marks) for key, one in value.items()}
    if isinstance(value, list):
        return [marked(one, f"{path}.{number}", marks) for number, one in enumerate(value)]
    if value is None or isinstance(value, bool) or HIDDEN.fullmatch(path.lstrip(".")):
        return value
    marks.append(f"mark{len(marks):04}" if isinstance(value, str) else f"{100_000 + len(marks)}.25")
    return marks[-1] if isinstance(value, str) else float(marks[-1])


def test_the_template_holds_no_figure() -> None:
    text = (ROOT / "tools" / "card" / "card.md.jinja").read_text(encoding="utf-8")
    assert NUMBER.findall(text) == []


def test_the_card_shows_all_of_the_run_and_nothing_else(found: dict[str, Any]) -> None:
    marks: list[str] = []
    text = render_card(marked(found, "", marks))
    assert len(marks) > 150
    assert [mark for mark in marks if mark not in text] == []
    passed = sum(verdict["passed"] for verdict in found["gates"].values())
    assert set(NUMBER.findall(text)) - set(marks) == {str(passed), str(len(found["gates"]))}


def test_the_card_has_what_the_run_has(found: dict[str, Any]) -> None:
    text = render_card(found)
    for name in ("preprocess", "train", "merge", "awq"):
        for key, value in flat(found["metrics"][name]).items():
            if not key.startswith(("examples", "files")):
                assert f"| `{key}` | {cell(value)} |\n" in text
    scores = {name: flat(found["metrics"][f"eval/{name}"]) for name in ("base", "merged", "awq")}
    for key in scores["base"]:
        row = " | ".join(cell(scores[name].get(key)) for name in scores)
        assert f"| `{key}` | {row} |\n" in text
    for name, gate in found["gates"].items():
        figures = f"{cell(gate['value'])} | {gate['bound']} {gate['limit']} | {cell(gate['margin'])}"
        verdict = "passed" if gate["passed"] else "**failed**"
        if "problem" in gate:
            verdict = f"**cannot be judged**: {cell(gate['problem'])}".replace("`", "\\`")
        assert f"| {name} | {figures} | {verdict} | a test |\n" in text.replace(gate["reason"], "a test")
    for key, pairs in by_row(found["metrics"]["compare"]).items():
        row = " | ".join(cell(pairs[name]) for name in ("merged_base", "awq_base", "awq_merged"))
        assert f"| `{key}` | {row} |\n" in text
    assert "| data/raw/rows.jsonl | alpaca | 50 | " in text
    assert "It failed " in text


def test_a_difference_is_one_cell_with_its_interval() -> None:
    pairs: dict[str, Any] = {
        "one": {"won": 3, "rouge_l": {"difference": 0.5, "low": 0.25, "high": 0.75}},
        "two": {"won": 4},
    }
    assert by_row(pairs) == {"rouge_l": {"one": "0.5 [0.25, 0.75]"}, "won": {"one": 3, "two": 4}}


def test_every_hash_is_in_dvc_lock_or_of_a_file(repository: Recorded) -> None:
    text = succeed_in(repository.folder, card.main, "--rev", repository.words)
    lock = run(repository.folder, "git", "show", f"{repository.first}:./dvc.lock")
    lineage = run(repository.folder, "git", "show", f"{repository.first}:./metrics/lineage.json")
    hashes = HASH.findall(text)
    assert len(hashes) > 10
    assert [one for one in hashes if one not in lock + lineage + repository.first] == []
    for name in ("base", "adapter", "merged", "awq"):
        (md5,) = re.findall(rf"^    - path: models/{name}\n      hash: md5\n      md5: (.*)$", lock, re.MULTILINE)[:1]
        assert re.search(rf"^\| models/{name} \| \w+ \| `{md5}` \|$", text, re.MULTILINE)


def test_other_runs_have_other_cards_and_the_same_run_the_same(repository: Recorded) -> None:
    cards = [
        succeed_in(repository.folder, card.main, "--rev", revision)
        for revision in (repository.first, repository.words, repository.other, "HEAD")
    ]
    assert cards[0] == cards[1] != cards[2] == cards[3]


def test_a_figure_that_the_run_did_not_measure_gets_no_card(repository: Recorded, tmp_path: Path) -> None:
    run(tmp_path, "git", "clone", "--quiet", str(repository.folder), "clone")
    metric = tmp_path / "clone" / "metrics" / "eval" / "awq.json"
    metric.write_text(metric.read_text(encoding="utf-8").replace("0.0", "1.0"), encoding="utf-8")
    commit(tmp_path / "clone", "a nicer figure")
    message = fail_in(tmp_path / "clone", card.main)
    assert "metrics/eval/awq.json: not what its dvc.lock says; run `make repro`" in message


def test_a_metric_that_dvc_lock_does_not_have_does_not_count(repository: Recorded, tmp_path: Path) -> None:
    run(tmp_path, "git", "clone", "--quiet", str(repository.folder), "clone")
    lock = tmp_path / "clone" / "dvc.lock"
    text = lock.read_text(encoding="utf-8")
    lock.write_text(text.replace("metrics/merge.json", "metrics/other.json"), encoding="utf-8")
    by_hand = commit(tmp_path / "clone", "merge.json by hand")
    assert fail_in(tmp_path / "clone", card.main) == (
        f"{by_hand}: its run has no metrics/merge.json; run `make repro` and commit"
    )


def test_the_hub_reads_the_yaml_in_front(found: dict[str, Any]) -> None:
    front = vars(ModelCard(render_card(found)).data)
    assert [front[key] for key in ("library_name", "pipeline_tag")] == ["transformers", "text-generation"]
    assert front.get("base_model") is None
    assert front["tags"] == ["awq", "compressed-tensors", "lockstep", "lora"]
    found["stages"]["base"]["params"]["base.source"] = "hub"
    found["stages"]["preprocess"]["params"]["preprocess.languages"] = ["en"]
    found["base"]["id"] = "owner/name"
    found["data"][0]["import"] = {"source": "owner/rows", "file": "a.json", "revision": "f" * 40, "licence": "mit"}
    text = render_card(found)
    front = vars(ModelCard(text).data)
    assert [front[key] for key in ("base_model", "datasets", "language")] == ["owner/name", ["owner/rows"], ["en"]]
    assert f"| owner/rows at {'f' * 40} | mit |" in text
    assert "base.tiny" not in text
    assert "built-in" not in text


def test_limits_of_use_follow_from_the_run(found: dict[str, Any]) -> None:
    found["metrics"]["eval/awq"]["tasks"] = {"sums": {"exact_match": 0.5}}
    found["metrics"]["preprocess"]["findings"] = {"email": 7}
    for verdict in found["gates"].values():
        verdict.pop("problem", None)  # as in older runs, in which what was not measured passed
        verdict |= {"passed": True, "value": 1.0}
    found["gates"]["awq_stop_rate"] |= {"value": None, "margin": None}
    limits = "\n".join(limits_of_use(found))
    assert "that it is trained on, sums: nothing is known" in limits
    assert "(email 7)" in limits
    assert "cannot show it: awq_stop_rate." in limits
    assert "failed" not in limits
    assert re.search(r"^\| awq_stop_rate \| - \| min 0.98 \| - \| not measured \|", render_card(found), re.MULTILINE)


def test_no_name_and_no_word_of_a_row_is_markup(found: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script> [x](https://example.com) ` | <img src=x>"
    found["data"][0] |= {"path": evil, "import": {"source": evil, "licence": evil, "revision": evil, "rows": 1}}
    found["base"] |= {"id": evil, "architecture": evil}
    found["metrics"]["preprocess"] |= {"details": {"unknown_role": {evil: 1}}, "unread": {evil: 1}}
    text = render_card(found)
    assert text.count("alert(1)") >= 7
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])
    assert re.findall(r"<(?:script|img|a)\b", page) == []
