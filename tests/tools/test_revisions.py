"""Revisions that no commit has: each tool refuses them in one line, and git takes none of them for an option."""

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from recorded import Recorded, run
from stage_runs import fail_in, succeed_in

from tools.card import __main__ as card
from tools.lineage import __main__ as lineage
from tools.review import __main__ as review
from tools.serve import __main__ as serve
from tools.serve.proof import examine
from tools.trace import __main__ as trace

pytestmark = pytest.mark.slow  # DVC records the runs
DASHES = ["--output=made", "-h", "--help", "--all", "-1"]
SEVERAL = ["^HEAD", "HEAD..HEAD", "HEAD^..HEAD", "HEAD^@", "HEAD HEAD", "HEAD\nmain"]
OTHERS = ["HEAD:dvc.lock", "HEAD^{tree}", "@{-99}", "", " ", "HEAD\n", "$(touch made)", "`touch made`", "x" * 9999]
TOOLS: dict[str, Callable[[str], tuple[click.Command, list[str]]]] = {
    "card": lambda rev: (card.main, ["--rev", rev]),
    "lineage": lambda rev: (lineage.main, ["--rev", rev]),
    "lineage of a file": lambda rev: (lineage.main, ["--file", "dvc.lock", "--rev", rev]),
    "review": lambda rev: (review.main, ["--rev", rev]),
    "trace": lambda rev: (trace.main, ["rows.jsonl:1", "--rev", rev]),
}


def refusal(rev: str) -> str:
    shown = rev if rev and rev.isprintable() else repr(rev)
    return f"{shown}: no commit here has this name; name a hash, tag or branch"


@pytest.mark.parametrize("rev", [*DASHES, *SEVERAL, *OTHERS], ids=lambda rev: ascii(rev[:20]))
@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_no_revision_is_one_line(repository: Recorded, tool: str, rev: str) -> None:
    main, options = TOOLS[tool](rev)
    before = sorted(repository.folder.iterdir())
    assert fail_in(repository.folder, main, *options) == refusal(rev)
    assert sorted(repository.folder.iterdir()) == before


@pytest.mark.parametrize("rev", [*DASHES, *SEVERAL, *OTHERS], ids=lambda rev: ascii(rev[:20]))
def test_serve_refuses_it_too(repository: Recorded, monkeypatch: pytest.MonkeyPatch, rev: str) -> None:
    monkeypatch.chdir(repository.folder)
    with pytest.raises(click.ClickException) as caught:
        examine("awq", rev)
    assert caught.value.message == refusal(rev)


@pytest.mark.parametrize("rev", ["main", "main~0", "@", "HEAD^{/another model}", "main^{}"])
def test_what_git_knows_is_a_revision(repository: Recorded, rev: str) -> None:
    assert repository.other in succeed_in(repository.folder, lineage.main, "--rev", rev)


def test_a_model_without_a_revision_after_its_mark_is_not_that_of_the_workspace() -> None:
    assert serve.parse_models("awq@,merged", None) == [("awq", ""), ("merged", None)]


def test_a_served_revision_is_remembered_by_its_hash(repository: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name may stand for another commit when `make smoke` reads it."""
    monkeypatch.chdir(repository.folder)
    assert examine("awq", "main").rev == repository.other


def test_a_hint_can_be_pasted_whatever_the_name_of_the_branch(repository: Recorded, tmp_path: Path) -> None:
    name = "a;touch`made`$HOME"
    run(tmp_path, "git", "clone", "--quiet", str(repository.folder), "clone")
    run(tmp_path / "clone", "git", "branch", name, repository.first)
    message = fail_in(tmp_path / "clone", trace.main, "rows.jsonl:1", "--rev", name)
    assert f"`git checkout '{name}' && dvc fetch preprocess && git checkout -`" in message
