"""`make report-page`: each figure is the run's, rows are text, and nothing in git changes."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from recorded import Recorded, commit, run
from stage_runs import fail_in, succeed_in

from tools.report_page import __main__ as report_page
from tools.report_page.charts import shown

pytestmark = pytest.mark.slow  # DVC records the runs
EVIL = "</script><script>alert('1')</script><img src=https://example.com/x onerror=alert(2)> ${x} {{ x }}"


class Reader(HTMLParser):
    """Collects the text, the tags and the addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.links = "", [""], [""]
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def clone(repository: Recorded, tmp_path: Path) -> Path:
    """A clone to change, with the answers in DVC's cache."""
    run(tmp_path, "git", "clone", "--quiet", str(repository.folder), "clone")
    cache = str(repository.folder / ".dvc" / "cache")
    (tmp_path / "clone" / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache}\n", encoding="utf-8")
    return tmp_path / "clone"


def pages(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in (folder / "reports").iterdir()}


def test_the_page_has_the_figures_of_the_run_and_git_stays_clean(clone: Path, repository: Recorded) -> None:
    succeed_in(clone, report_page.main, "--rev", repository.first)
    found = pages(clone)
    assert set(found) == {f"{repository.first[:12]}.html", "index.html"}
    text = found[f"{repository.first[:12]}.html"]
    gates = json.loads(run(clone, "git", "show", f"{repository.first}:./metrics/gates.json"))
    for name, gate in gates.items():
        row = re.search(rf"<th scope=\"row\">{name.replace('_', ' ')}</th>(.*?)</tr>", text)
        assert row, name
        assert ("✓" if gate["passed"] else "✗") in row[1]
        assert f">{shown(gate['value'])}</td>" in row[1]
    rows = json.loads(run(clone, "git", "show", f"{repository.first}:./metrics/preprocess.json"))
    assert f'>read</th><td class="number">{rows["rows_read"]:,}</td>' in text
    assert run(clone, "git", "status", "--porcelain") == ""


def test_the_page_asks_for_nothing_and_every_table_has_headers(clone: Path) -> None:
    succeed_in(clone, report_page.main)
    for name, text in pages(clone).items():
        reader = Reader(text)
        outside = [one for one in reader.links if one and not one.startswith(("#", "data:,"))]
        assert set(outside) <= {"index.html", *pages(clone)}, name
        assert re.findall(r"url\(|@import|fetch\(|https?:", text) == []
        for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
            assert '<th scope="col"' in table


def test_words_of_strangers_are_text(clone: Path) -> None:
    lock = clone / "dvc.lock"
    answers = clone / "metrics" / "eval" / "answers.jsonl"
    answer = {"answer": EVIL, "exact_match": False, "stopped": True, "chrf": 0.5, "rouge_l": 0.5}
    row: dict[str, Any] = {"question": [{"role": EVIL, "content": EVIL}], "reference": EVIL}
    row |= {model: answer | {"loss": 1.0, "tokens": 2} for model in ("base", "merged", "awq")}
    answers.write_text(json.dumps(row) + "\n", encoding="utf-8")
    known = re.search(r"path: metrics/eval/answers.jsonl\n      hash: md5\n      md5: (\w+)", lock.read_text("utf-8"))
    if known is None:  # the recorded run has no compare stage
        text = lock.read_text(encoding="utf-8")
        md5 = run(clone, "md5sum", str(answers)).split()[0]
        out = f"    - path: metrics/eval/answers.jsonl\n      hash: md5\n      md5: {md5}\n      size: 1\n"
        lock.write_text(text.replace("    outs:\n", f"    outs:\n{out}", 1), encoding="utf-8")
    else:
        md5 = run(clone, "md5sum", str(answers)).split()[0]
        lock.write_text(lock.read_text(encoding="utf-8").replace(known[1], md5), encoding="utf-8")
    commit(clone, EVIL)
    succeed_in(clone, report_page.main)
    for text in pages(clone).values():
        reader = Reader(text)
        assert "img" not in reader.tags
        assert reader.tags.count("script") <= 3
        assert not any("example.com" in link for link in reader.links)
    assert sum(text.count("alert(2)") for text in pages(clone).values()) >= 6


def test_a_run_that_is_not_committed_has_a_page_until_it_is(clone: Path) -> None:
    path = clone / "metrics" / "train.json"
    changed = json.loads(path.read_text(encoding="utf-8")) | {"eval_loss": 0.123456}
    path.write_text(json.dumps(changed), encoding="utf-8")
    assert "not committed" in succeed_in(clone, report_page.main)
    text = pages(clone)["workspace.html"]
    assert "0.1235" in text
    assert "metrics/train.json" in text  # it is not what dvc.lock says
    assert 'href="workspace.html"' in pages(clone)["index.html"]
    commit(clone, "a run")
    succeed_in(clone, report_page.main)
    assert "workspace.html" not in pages(clone)


def test_the_changes_are_those_since_the_last_accepted_run(clone: Path, repository: Recorded) -> None:
    gates = clone / "metrics" / "gates.json"
    verdicts = json.loads(gates.read_text(encoding="utf-8"))
    for verdict in verdicts.values():
        verdict["passed"] = True
    gates.write_text(json.dumps(verdicts), encoding="utf-8")
    accepted = commit(clone, "an accepted run")
    lock = clone / "dvc.lock"
    text = lock.read_text(encoding="utf-8")
    lock.write_text(re.sub(r"train\.batch_size: \d+", "train.batch_size: 4321", text), encoding="utf-8")
    commit(clone, "another batch size")
    succeed_in(clone, report_page.main)
    (page,) = (text for name, text in pages(clone).items() if name != "index.html")
    part = page.partition('id="changes"')[2].partition("<h2")[0]
    assert accepted[:12] in part
    assert re.search(r"train\.batch_size</code></th><td>\d+</td><td>4321</td>", part)


def test_the_index_lists_runs_and_experiments_and_takes_their_names(clone: Path, repository: Recorded) -> None:
    tip = run(clone, "git", "rev-parse", "HEAD").strip()
    run(clone, "git", "update-ref", f"refs/exps/{tip[:2]}/{tip[2:]}/loud-moth", repository.first)
    succeed_in(clone, report_page.main, "--rev", "loud-moth")
    index = pages(clone)["index.html"]
    assert f"{repository.first[:12]}.html" in pages(clone)
    for one in (repository.first, repository.other):
        assert one[:8] in index
    assert 'class="label experiment">loud-moth<' in index
    assert "<h1>experiment loud-moth</h1>" in pages(clone)[f"{repository.first[:12]}.html"]
    facts = json.loads(Reader(index.partition('type="application/json">')[2].partition("</script>")[0]).text)
    runs = len(re.findall('type="checkbox"', index))
    assert {len(part["values"]) for part in facts.values()} == {runs}


def test_a_revision_that_does_not_exist_is_one_line(clone: Path) -> None:
    assert "no commit here has this name" in fail_in(clone, report_page.main, "--rev", "nowhere")
