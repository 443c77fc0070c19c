"""`make review`: every section against the run that it tells of, and nothing in it that strangers could use."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from recorded import Recorded, commit, run
from stage_runs import fail_in, succeed_in

from stages.common import files
from tools.review import __main__ as review
from tools.review.markdown import code

pytestmark = pytest.mark.slow  # DVC records the runs
WORDS = r"[A-Za-z]{4,}"
EVIL = [
    "@octocat fixes #12, see https://example.com and www.example.com or me@example.com",
    "<img src=x onerror=alert(1)> <!-- --> </code></td></table> &lt;b&gt; <details>",
    "| a | b |\n|---|---|\n\n# Title\n\n```\nfence\n```\n- [ ] task\n![x](https://example.com/x.png)",
    "`code` ``more`` ~~~ *bold* __bold__ _x_ \\| \\` [a](b) :smile: $x$ $$y$$ </summary>",
    "\u202egnp.exe \x1b[31m \x00 \u2028 two\r\nlines",
    "word " * 5000,
]


class Rendered(HTMLParser):
    """Tags and text of a page, the text inside and outside of code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.inside, self.outside = "", ""
        self.feed(MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").render(text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            del self.open[len(self.open) - 1 - self.open[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        if {"code", "pre"} & set(self.open):
            self.inside += data
        else:
            self.outside += data


@pytest.fixture
def project(repository: Recorded, tmp_path: Path) -> Path:
    """A copy of the repository of recorded runs, in which a test may change anything."""
    return shutil.copytree(repository.folder, tmp_path / "project", symlinks=True)


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    """Change a JSON file of the workspace."""
    value = files.read_json(path)
    edit(value)
    files.write_json(path, value)


def answer(project: Path, place: int, **values: Any) -> dict[str, Any]:
    """Change one answer of awq in the workspace."""
    path = project / "metrics/eval/awq.answers.jsonl"
    rows = files.read_rows(path)
    rows[place] |= values
    path.unlink()  # a link into DVC's cache
    path.write_text(files.dump_rows(rows), encoding="utf-8")
    return rows[place]


def section(text: str, title: str) -> str:
    return text.partition(f"### {title}\n")[2].partition("\n### ")[0]


def test_the_same_run_differs_in_nothing(project: Path) -> None:
    text = succeed_in(project, review.main, "--rev", "main")
    assert text.startswith("<!-- lockstep review -->\n\n## The model of this change, against `main` (")
    assert "every stage has the same inputs and the same bytes" in text
    assert "No setting and no other input of a stage differs." in text
    assert "would run again" not in text
    figures = [line for line in section(text, "Scores").splitlines() if line.startswith("| awq |")]
    assert figures
    assert all(line.endswith("| = | – |  |") for line in figures)  # noqa: RUF001
    assert "No answer of awq changed." in text


def test_settings_and_inputs_that_differ_are_those_of_dvc_lock(project: Path, repository: Recorded) -> None:
    lock = (project / "dvc.lock").read_text(encoding="utf-8")
    lock = lock.replace("awq.samples: 16", "awq.samples: 99")
    rows = re.search(r"path: data/raw\n.*\n +md5: (\w+)\.dir", lock)
    assert rows
    (project / "dvc.lock").write_text(lock.replace(rows[1], "0" * 32), encoding="utf-8")
    text = succeed_in(project, review.main, "--rev", repository.other)
    assert "| `awq.samples` | `16` | `99` |" in section(text, "What changed")
    assert "Other inputs that changed: `data/raw`." in text
    assert "`awq`" in text.partition("would run again")[0]  # dvc.lock is not what the files are
    assert text.count("| `16` |") == 1


def test_scores_have_intervals_of_the_rows_that_both_answered(project: Path) -> None:
    old = files.read_rows(project / "metrics/eval/awq.answers.jsonl")
    for place in range(len(old)):
        answer(project, place, answer="new", exact_match=True, chrf=1.0, loss=0.5 * old[place]["loss"])
    text = succeed_in(project, review.main, "--rev", "main")
    scores = section(text, "Scores")
    (chrf,) = re.findall(r"^\| awq \| `chrf` \|.*\|$", scores, re.MULTILINE)
    expected = 1 - sum(row["chrf"] for row in old) / len(old)
    assert f"| {expected:+.4g} |" in chrf
    assert "**better**" in chrf
    (perplexity,) = re.findall(r"^\| awq \| `perplexity` \|.*\|$", scores, re.MULTILINE)
    assert "**better**" in perplexity  # lower
    low, high = map(float, re.findall(r"\| ([+-]\S+) to ([+-]\S+) \|", perplexity)[0])
    assert low < high < 0
    assert f"of the {len(old)} of " in scores
    assert "**worse**" not in scores
    assert f"{len(old)} of {len(old)} answers of awq changed" in section(text, "Answers")


def test_a_row_that_only_one_run_has_is_left_out(project: Path) -> None:
    old = files.read_rows(project / "metrics/eval/awq.answers.jsonl")
    answer(project, 0, reference="another")
    answer(project, 1, exact_match=not old[1]["exact_match"], answer="other words")
    text = succeed_in(project, review.main, "--rev", "main")
    assert f"of the {len(old) - 1} of " in text
    assert "| `other words` |" in section(text, "Answers")
    assert "another" not in section(text, "Answers")


def test_few_answers_show_those_that_got_worse_and_better(project: Path) -> None:
    rows = len(files.read_rows(project / "metrics/eval/awq.answers.jsonl"))
    for place in range(rows):
        answer(project, place, answer=f"other {place}")
    better = answer(project, rows - 1, answer="all right", exact_match=True)
    text = section(succeed_in(project, review.main, "--rev", "main"), "Answers")
    assert f"{rows} of {rows} answers of awq changed (1 better, {rows - 1} other)" in text
    assert f"| {code(better['reference'], 300)} |" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(lines) == min(10, rows)
    assert lines[-1].endswith("| better |")


def test_failed_gates_come_first_and_all_are_folded(project: Path) -> None:
    def fail(gates: Any) -> None:
        for verdict in gates.values():
            verdict["passed"] = True
            verdict.pop("problem", None)
        gates["awq_stop_rate"] |= {"passed": False, "value": 0.25}

    change(project / "metrics/gates.json", fail)
    text = succeed_in(project, review.main, "--rev", "main")
    count = len(files.read_json(project / "metrics/gates.json"))
    assert f"**{count - 1} of {count} gates passed**; failed: `awq_stop_rate`." in text
    before, _, folded = section(text, "Gates").partition("<details>")
    assert re.search(r"^\| `awq_stop_rate` \|.*\| 0\.25 \*\*failed\*\* \|$", before, re.MULTILINE)
    assert len(re.findall(r"^\| `\w+` \| ", folded, re.MULTILINE)) == count


def test_rows_are_accounted_for(project: Path) -> None:
    old = files.read_json(project / "metrics/preprocess.json")

    def lose(counts: Any) -> None:
        counts["rows_dropped"] = {"empty_answer": 3, "over_length": 20}
        counts["rows_kept"] = old["rows_kept"] - 23
        counts["files"]["new.csv"] = {"rows_read": 7, "rows_dropped": {"empty_answer": 3}}

    change(project / "metrics/preprocess.json", lose)
    text = section(succeed_in(project, review.main, "--rev", "main"), "Rows")
    assert f"| rows kept | {old['rows_kept']} | {old['rows_kept'] - 23} | -23 |" in text
    assert "| dropped: the answer is empty or missing `empty_answer` | 0 | 3 | +3 |" in text
    assert "| `new.csv` | – | 7 read, 3 dropped |" in text  # noqa: RUF001


def test_curves_and_sizes_are_in_it(project: Path) -> None:
    text = section(succeed_in(project, review.main, "--rev", "main"), "More")
    assert text.count("```mermaid\n") >= 1
    numbers = [json.loads(line) for line in re.findall(r"^  line (\[.*\])$", text, re.MULTILINE)]
    assert len(numbers) % 2 == 0
    assert {len(line) for line in numbers} == {20}
    lines = (project / "metrics/train/plots/metrics/loss.tsv").read_text(encoding="utf-8").splitlines()
    first, last = (float(line.split("\t")[1]) for line in (lines[1], lines[-1]))
    assert numbers[0][0] == pytest.approx(first, rel=1e-3)
    assert numbers[0][-1] == pytest.approx(last, rel=1e-3)
    lock = (project / "dvc.lock").read_text(encoding="utf-8")
    size = re.search(r"path: models/awq\n +hash: md5\n +md5: \w+\.dir\n +size: (\d+)", lock)
    assert size
    assert f"| models/awq | {int(size[1]):,} | {int(size[1]):,} | = |" in text


def test_no_word_of_strangers_is_markup_link_or_mention(project: Path) -> None:
    base = Rendered(succeed_in(project, review.main, "--rev", "main"))
    lock = (project / "dvc.lock").read_text(encoding="utf-8")
    rows = len(files.read_rows(project / "metrics/eval/awq.answers.jsonl"))
    for place, evil in enumerate(EVIL[:rows]):
        answer(project, place, answer=evil, exact_match=True)
    counts = project / "metrics/preprocess.json"
    change(counts, lambda counted: counted["files"].update({evil: {"rows_read": 1} for evil in EVIL}))
    (project / "dvc.lock").write_text(
        lock.replace("awq.samples: 16", f"awq.samples: {json.dumps(EVIL)}"), encoding="utf-8"
    )
    written = succeed_in(project, review.main, "--rev", "main")
    page = Rendered(written)
    for evil in EVIL:
        assert all(page.inside.count(word) > base.inside.count(word) for word in re.findall(WORDS, evil)[:5]), evil
    words = {"octocat", "example", "onerror", "fence", "smile", "Title", "word"}
    assert not set(re.findall(WORDS, page.outside)) & words
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in base.tags}
    assert not {"a", "img"} & {tag for tag, _ in page.tags}
    assert [attributes for tag, attributes in page.tags if attributes and tag != "code"] == []
    assert page.open == []
    outside_of_code = re.sub(r"^```.*?^```|<code>[^<]*</code>|`[^`\n]*`", "", written, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"@\w|#\d|https?:|www\.", outside_of_code)
    assert all(line.endswith("|") for line in written.splitlines() if line.startswith("|"))


def test_the_longest_review_fits_in_a_comment(project: Path) -> None:
    """Uncut it would be millions of characters."""
    rows = files.read_rows(project / "metrics/eval/awq.answers.jsonl")
    for place in range(len(rows)):
        answer(project, place, answer="@<|`" * 2000)
    change(
        project / "metrics/preprocess.json",
        lambda counts: counts["files"].update({f"{'<' * 300}{n}": {"rows_read": 1} for n in range(2000)}),
    )
    lock = (project / "dvc.lock").read_text(encoding="utf-8")
    keys = "".join(f"        awq.{'&' * 400}{n}: 1\n" for n in range(500))
    (project / "dvc.lock").write_text(lock.replace("        awq.samples: 16\n", keys), encoding="utf-8")
    text = succeed_in(project, review.main, "--rev", "main")
    assert 20_000 < len(text) <= 65_536
    assert " more are left out." in text
    assert "| better |" not in text
    assert section(text, "More")


def test_without_answers_of_the_revision_it_says_so(project: Path) -> None:
    shutil.rmtree(project / ".dvc" / "cache")
    answer(project, 0, answer="new")
    text = succeed_in(project, review.main, "--rev", "main")
    assert "The answers of `main` are in neither DVC's cache nor its remote" in text
    assert section(text, "Scores")
    assert section(text, "Answers") == ""


def test_answers_of_the_revision_come_from_the_remote(project: Path, tmp_path: Path) -> None:
    run(project, "dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    run(project, "dvc", "push", "--quiet")
    commit(project, "remote")
    shutil.rmtree(project / ".dvc" / "cache")
    answer(project, 0, answer="new")
    text = succeed_in(project, review.main, "--rev", "main")
    assert "| `new` |" in section(text, "Answers")


def test_a_revision_without_a_run_is_compared_with_nothing(project: Path) -> None:
    run(project, "git", "rm", "-r", "--quiet", "--cached", "dvc.lock", "metrics")
    run(project, "git", "commit", "--quiet", "-m", "no run")
    rev = run(project, "git", "rev-parse", "HEAD").strip()
    text = succeed_in(project, review.main, "--rev", rev)
    assert "has no run to compare with" in text
    assert re.search(r"^\| awq \| `chrf` \| – \| \S+ \|", section(text, "Scores"), re.MULTILINE)  # noqa: RUF001
    assert "What changed" not in text


def test_it_is_written_to_a_file(project: Path) -> None:
    assert succeed_in(project, review.main, "--rev", "main", "--out", "new/review.md") == ""
    assert (project / "new/review.md").read_text(encoding="utf-8").startswith("<!-- lockstep review -->")


def test_without_a_complete_run_here_there_is_no_review(project: Path) -> None:
    lock = project / "dvc.lock"
    lock.write_text(lock.read_text(encoding="utf-8").partition("  report:\n")[0], encoding="utf-8")
    assert fail_in(project, review.main) == "dvc.lock: the run is not complete; run `make repro` first"
    (project / "metrics/compare.json").unlink()
    message = "metrics/compare.json: no such file or folder; run `make repro` first"
    assert fail_in(project, review.main) == message
    lock.unlink()
    assert fail_in(project, review.main) == "dvc.lock: no such file or folder; run `make repro` first"
