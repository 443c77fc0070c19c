"""A server when things fail: a program is killed, a disk is full. Needs the environments of serving."""

import os
import signal
import subprocess

import httpx
import pytest
from processes import alive, below, until, words
from serving import Served

pytestmark = pytest.mark.slow
UP = 240.0  # seconds in which a program is back


def process_of(served: Served, program: str) -> int:
    """Find the process of a program, which is its guard's child."""
    (found,) = [
        pid
        for pid in below(served.supervisor())
        if next((word for word in words(pid)[1:] if not word.startswith("-")), "").endswith(program)
    ]
    return found


def test_vllm_killed_during_an_answer_is_an_error_to_the_client_and_comes_back(served: Served) -> None:
    """The chat page keeps running meanwhile."""
    body = {
        "model": served.model(),
        "messages": [{"role": "user", "content": "What comes after Thursday?"}],
        "stream": True,
        "max_tokens": 400,
        "ignore_eos": True,
    }
    headers = {"Authorization": f"Bearer {served.key()}"}
    server = process_of(served, "bin/vllm")
    left = below(server)
    assert left
    with httpx.stream(
        "POST", f"{served.address}/v1/chat/completions", json=body, headers=headers, timeout=60
    ) as answer:
        seen, killed = "", False
        with pytest.raises(httpx.TransportError):
            for text in answer.iter_text():
                seen += text
                if seen.count("data:") >= 20 and not killed:
                    os.kill(server, signal.SIGKILL)
                    killed = True
    assert 20 <= seen.count("data:") < 400
    assert "[DONE]" not in seen
    refused = httpx.get(f"{served.address}/v1/models", headers=headers, timeout=60)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert served.webui().get("/health").status_code == 200
    until(served.is_healthy, UP)
    assert not [pid for pid in left if alive(pid)]
    assert served.model() in served.webui().get("/api/models").text


def test_a_chat_page_that_is_killed_comes_back(served: Served) -> None:
    os.kill(process_of(served, "webui_server.py"), signal.SIGKILL)
    until(lambda: not served.is_healthy(), UP)
    until(served.is_healthy, UP)


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may mount a disk: run `sudo make test ARGS=tests/serve/test_restarts.py`"
)
def test_chats_outlive_a_restart_on_a_full_disk(served: Served) -> None:
    """Only the logs are on the full disk: the programs keep running. Other tests find the server as it was."""
    chat = (
        served.webui().post("/api/v1/chats/new", json={"chat": {"title": "kept", "messages": []}}).raise_for_status()
    )
    assert "serve" in served.tool("stop").stdout
    logs = served.folder / "logs" / "serve"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(logs)], check=True)
    try:
        with pytest.raises(OSError, match="No space left"):
            (logs / "filler").write_bytes(b"x" * 2**20)
        served.serve()
        assert served.webui().get(f"/api/v1/chats/{chat.json()['id']}").raise_for_status().json()["title"] == "kept"
        body = {"model": served.model(), "messages": [{"role": "user", "content": "What comes after Thursday?"}]}
        answer = served.webui().post("/api/chat/completions", json=body).raise_for_status().json()
        assert answer["choices"][0]["message"]["content"] == "Friday"
        assert (logs / "filler").stat().st_size < 2**20
    finally:
        served.tool("stop")
        subprocess.run(["umount", str(logs)], check=True)
        served.serve()
