"""`make comment`: one comment for each pull request, which every job replaces, whoever else writes there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from comment_service import JOB, OWNER, CommentService, comment_service
from stage_runs import fail_in, succeed_in

from tools import comment

MARK = "<!-- lockstep review -->"
REVIEW = f"{MARK}\n\n## Title with ünïcode\n"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[CommentService]:
    for name in ("GITHUB_REF", "GITHUB_TOKEN", "CI_MERGE_REQUEST_IID", "REVIEW_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with comment_service() as service:
        yield service


@pytest.fixture(params=["github", "github of a user", "gitlab"])
def job(request: pytest.FixtureRequest, service: CommentService, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job of a pull request or a merge request. Returns the name that it writes under."""
    given = {
        "github": service.github(JOB),
        "github of a user": service.github(OWNER),
        "gitlab": service.gitlab(),
    }[request.param]
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return "github-actions[bot]" if request.param == "github" else "owner"


def test_the_first_job_comments_and_the_next_one_replaces_it(
    job: str, service: CommentService, tmp_path: Path
) -> None:
    for number in range(5):
        service.add("someone", f"comment {number}")
    (tmp_path / "review.md").write_text(REVIEW, encoding="utf-8")
    assert succeed_in(tmp_path, comment.main).endswith(": commented\n")
    assert [one["body"] for one in service.comments[5:]] == [REVIEW]
    service.add("someone", "a last one")
    (tmp_path / "other.md").write_text(f"{REVIEW}more\n", encoding="utf-8")
    assert succeed_in(tmp_path, comment.main, "--file", "other.md").endswith(": comment updated\n")
    assert service.comments[5]["body"] == f"{REVIEW}more\n"
    assert len(service.comments) == 7
    assert service.comments[5]["user"]["login"] == job


def test_a_comment_of_someone_else_stays(job: str, service: CommentService, tmp_path: Path) -> None:
    """Even one that pretends to be the review, and those whose author is gone."""
    for name, body in (("someone", f"{MARK}\nfake"), (None, f"{MARK}\nfake"), (job, f"about {MARK}"), (job, None)):
        service.add(name, body)
    before = [dict(one) for one in service.comments]
    (tmp_path / "review.md").write_text(REVIEW, encoding="utf-8")
    succeed_in(tmp_path, comment.main)
    assert service.comments[:4] == before
    assert service.comments[4]["body"] == REVIEW


@pytest.mark.slow  # connecting is tried again, with pauses
def test_what_is_missing_is_one_line(
    service: CommentService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "review.md").write_text(REVIEW, encoding="utf-8")
    assert fail_in(tmp_path, comment.main).startswith("no pull request in the environment (GITHUB_REF or ")
    for name, value in (service.github("wrong") | {"GITHUB_REF": "refs/heads/main"}).items():
        monkeypatch.setenv(name, value)
    assert fail_in(tmp_path, comment.main).startswith("no pull request in the environment (GITHUB_REF or ")
    monkeypatch.setenv("GITHUB_REF", "refs/pull/7/merge")
    refused = f"{service.address}/repos/owner/name/issues/7/comments?per_page=100: status 401; may the token write"
    assert fail_in(tmp_path, comment.main).startswith(refused)
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:1")
    assert "127.0.0.1:1/repos/owner/name/issues/7/comments: " in fail_in(tmp_path, comment.main)
    monkeypatch.delenv("GITHUB_TOKEN")
    assert fail_in(tmp_path, comment.main) == "GITHUB_TOKEN: not set; docs/ci.md says how a job gets it"
    (tmp_path / "review.md").write_text("# Title\n", encoding="utf-8")
    assert fail_in(tmp_path, comment.main).startswith("review.md: its first line is not a mark such as <!-- ")
    (tmp_path / "review.md").unlink()
    assert "run `make review OUT=review.md` first" in fail_in(tmp_path, comment.main)
