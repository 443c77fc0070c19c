"""Put a review on the pull request or merge request of a CI job, in place of the one that an earlier job put there.

The environment says where: GitHub Actions sets GITHUB_REF, GITHUB_REPOSITORY and GITHUB_API_URL, and the job hands on
GITHUB_TOKEN; GitLab CI sets CI_MERGE_REQUEST_IID, CI_PROJECT_ID and CI_API_V4_URL, and a variable of the project is
REVIEW_TOKEN. The first line of the file, a comment of HTML, marks the comment that is replaced. Run it with `make
comment FILE=review.md`, or with `python -m tools.comment`.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from stages.common import files

MARK = re.compile(r"<!-- .+ -->")
BOT = "github-actions[bot]"  # the author of comments by a job's own token, which may not ask who it is
PAGE = 100  # comments in an answer


class Thread(NamedTuple):
    """Where the comments of a pull request are.

    Attributes:
        comments: address of the list.
        one: address that a comment's id is added to.
        user: address that says whose token this is.
        author: key of a comment that holds its author.
        name: key of an author that holds their name.
        update: method that replaces a comment.
        token: header with the token.
    """

    comments: str
    one: str
    user: str
    author: str
    name: str
    update: str
    token: dict[str, str]


@click.command(help=__doc__)
@click.option("--file", type=click.Path(path_type=Path), default="review.md", show_default=True)
def main(file: Path) -> None:
    files.require(file, "make review OUT=review.md")
    text = file.read_text(encoding="utf-8")
    mark = text.partition("\n")[0]
    if not MARK.fullmatch(mark):
        raise click.ClickException(f"{file}: its first line is not a mark such as <!-- lockstep review -->; add one")
    click.echo(post(find_thread(), text, mark))


def post(thread: Thread, text: str, mark: str) -> str:
    """Write the comment, or replace the one of the same author that begins with `mark`.

    Returns:
        What was done.

    Raises:
        click.ClickException: the service refuses, or does not answer.
    """
    import httpx

    try:
        with httpx.Client(headers=thread.token, timeout=60, transport=httpx.HTTPTransport(retries=3)) as client:
            me = client.get(thread.user)
            author = me.json()[thread.name] if me.is_success else BOT
            old = next(
                (
                    comment["id"]
                    for comment in listed(client, thread.comments)
                    if (comment["body"] or "").startswith(mark)
                    and (comment[thread.author] or {}).get(thread.name) == author
                ),
                None,
            )
            answer = (
                client.post(thread.comments, json={"body": text})
                if old is None
                else client.request(thread.update, f"{thread.one}/{old}", json={"body": text})
            )
            answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise click.ClickException(
            f"{error.request.url}: status {status}; may the token write comments? docs/ci.md has the permissions"
        ) from None
    except httpx.HTTPError as error:
        raise click.ClickException(f"{thread.comments}: {error}") from None
    return f"{thread.comments}: {'commented' if old is None else 'comment updated'}"


def find_thread() -> Thread:
    """Find the pull request in the environment of the job.

    Raises:
        click.ClickException: this is no job of a pull request, or it has no token.
    """
    given = os.environ.get
    number = re.fullmatch(r"refs/pull/(\d+)/\w+", given("GITHUB_REF", ""))
    if number:
        api, repository = given("GITHUB_API_URL", "https://api.github.com"), given("GITHUB_REPOSITORY", "")
        issues = f"{api}/repos/{repository}/issues"
        token = {"Authorization": f"Bearer {_token('GITHUB_TOKEN')}", "Accept": "application/vnd.github+json"}
        where = (f"{issues}/{number[1]}/comments", f"{issues}/comments", f"{api}/user")
        return Thread(*where, "user", "login", "PATCH", token)
    if given("CI_MERGE_REQUEST_IID"):
        api, project = given("CI_API_V4_URL", ""), given("CI_PROJECT_ID", "")
        notes = f"{api}/projects/{project}/merge_requests/{given('CI_MERGE_REQUEST_IID')}/notes"
        token = {"PRIVATE-TOKEN": _token("REVIEW_TOKEN")}
        return Thread(notes, notes, f"{api}/user", "author", "username", "PUT", token)
    raise click.ClickException(
        "no pull request in the environment (GITHUB_REF or CI_MERGE_REQUEST_IID); run it in a job of one"
    )


def listed(client: Any, address: str) -> Iterator[dict[str, Any]]:
    """Yield all comments of a list, page by page."""
    page: str | None = f"{address}?per_page={PAGE}"
    while page:
        answer = client.get(page)
        answer.raise_for_status()
        yield from answer.json()
        page = answer.links.get("next", {}).get("url")


def _token(name: str) -> str:
    if token := os.environ.get(name):
        return token
    raise click.ClickException(f"{name}: not set; docs/ci.md says how a job gets it")


if __name__ == "__main__":
    main()
