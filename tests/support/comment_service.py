"""A service with the comments of one pull request, which speaks as the APIs of GitHub and GitLab do."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JOB, OWNER = "token-of-a-job", "token-of-a-user"  # a job's own token may not ask who it is
NAMES = {JOB: "github-actions[bot]", OWNER: "owner"}


class CommentService(ThreadingHTTPServer):
    """Comments in memory; `page` of them in one answer, whatever is asked for."""

    def __init__(self, page: int = 2) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.page, self.comments = page, list[dict[str, Any]]()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str | None, body: str | None) -> dict[str, Any]:
        author = name and {"login": name, "username": name}
        self.comments.append({"id": 100 + len(self.comments), "body": body, "user": author, "author": author})
        return self.comments[-1]

    def github(self, token: str = JOB) -> dict[str, str]:
        """The variables of a job of GitHub Actions."""
        return {
            "GITHUB_API_URL": self.address,
            "GITHUB_REPOSITORY": "owner/name",
            "GITHUB_REF": "refs/pull/7/merge",
            "GITHUB_TOKEN": token,
        }

    def gitlab(self, token: str = OWNER) -> dict[str, str]:
        """The variables of a job of GitLab CI."""
        return {
            "CI_API_V4_URL": self.address,
            "CI_PROJECT_ID": "3",
            "CI_MERGE_REQUEST_IID": "7",
            "REVIEW_TOKEN": token,
        }


class Handler(BaseHTTPRequestHandler):
    server: CommentService

    def answer(self, status: int, value: Any, **headers: str) -> None:
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        token = self.headers.get("PRIVATE-TOKEN") or self.headers.get("Authorization", "").removeprefix("Bearer ")
        path, _, query = self.path.partition("?")
        one = re.fullmatch(r"(?:/repos/owner/name/issues/comments|/projects/3/merge_requests/7/notes)/(\d+)", path)
        if token not in NAMES:
            self.answer(401, {"message": "Bad credentials"})
        elif path == "/user":
            self.answer(403 if token == JOB else 200, {"login": NAMES[token], "username": NAMES[token]})
        elif one and self.command in ("PATCH", "PUT"):
            found = next(comment for comment in self.server.comments if comment["id"] == int(one[1]))
            found["body"] = body["body"]
            self.answer(200, found)
        elif path not in ("/repos/owner/name/issues/7/comments", "/projects/3/merge_requests/7/notes"):
            self.answer(404, {"message": "Not Found"})
        elif self.command == "POST":
            self.answer(201, self.server.add(NAMES[token], body["body"]))
        else:
            number = int((re.search(r"\bpage=(\d+)", query) or ["", "1"])[1])
            end = number * self.server.page
            link = f'<{self.server.address}{path}?per_page=100&page={number + 1}>; rel="next"'
            more = {"Link": link} if end < len(self.server.comments) else {}
            self.answer(200, self.server.comments[end - self.server.page : end], **more)

    do_GET = do_POST = do_PATCH = do_PUT = serve

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def comment_service() -> Iterator[CommentService]:
    """Answer until the block ends."""
    with CommentService() as service:
        threading.Thread(target=service.serve_forever, args=(0.02,), daemon=True).start()
        yield service
        service.shutdown()
