"""What is served, and what goes wrong: a part is killed, a disk is full. Needs the environments of serving."""

import os
import signal
import subprocess

import httpx
import pytest
from processes import alive, below, until, words
from serving import Served

UP = 240.0  # seconds in which a part is back


def part(served: Served, program: str) -> int:
    """Give the process of a part, which is its guard's child."""
    (found,) = [pid for pid in below(served.supervisor()) if words(pid)[1:2] and words(pid)[1].endswith(program)]
    return found


def test_vllm_killed_in_mid_answer_is_an_error_to_the_client_and_comes_back(served: Served) -> None:
    """The page lives on meanwhile."""
    body = {
        "model": served.model(),
        "messages": [{"role": "user", "content": "What comes after Thursday?"}],
        "stream": True,
        "max_tokens": 400,
        "ignore_eos": True,
    }
    headers = {"Authorization": f"Bearer {served.key()}"}
    engine = part(served, "bin/vllm")
    left = below(engine)
    assert left
    with httpx.stream(
        "POST", f"{served.address}/v1/chat/completions", json=body, headers=headers, timeout=60
    ) as answer:
        seen, killed = "", False
        with pytest.raises(httpx.TransportError):
            for text in answer.iter_text():
                seen += text
                if seen.count("data:") >= 20 and not killed:
                    os.kill(engine, signal.SIGKILL)
                    killed = True
    assert 20 <= seen.count("data:") < 400
    assert "[DONE]" not in seen
    refused = httpx.get(f"{served.address}/v1/models", headers=headers, timeout=60)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert served.page().get("/health").status_code == 200
    until(served.is_healthy, UP)
    assert not [pid for pid in left if alive(pid)]
    assert served.model() in served.page().get("/api/models").text


def test_a_page_that_is_killed_comes_back(served: Served) -> None:
    os.kill(part(served, "bin/open-webui"), signal.SIGKILL)
    until(lambda: not served.is_healthy(), UP)
    until(served.is_healthy, UP)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_chats_outlive_a_restart_on_a_full_disk(served: Served) -> None:
    """The last test, as it ends the server. The disk is that of the logs: who cannot log goes on."""
    chat = (
        served.page().post("/api/v1/chats/new", json={"chat": {"title": "kept", "messages": []}}).raise_for_status()
    )
    assert "serve has ended" in served.tool("stop").stdout
    logs = served.folder / "logs" / "serve"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(logs)], check=True)
    try:
        with pytest.raises(OSError, match="No space left"):
            (logs / "filler").write_bytes(b"x" * 2**20)
        served.serve()
        assert served.page().get(f"/api/v1/chats/{chat.json()['id']}").raise_for_status().json()["title"] == "kept"
        body = {"model": served.model(), "messages": [{"role": "user", "content": "What comes after Thursday?"}]}
        answer = served.page().post("/api/chat/completions", json=body).raise_for_status().json()
        assert answer["choices"][0]["message"]["content"] == "Friday"
        assert (logs / "filler").stat().st_size < 2**20
    finally:
        served.tool("stop")
        subprocess.run(["umount", str(logs)], check=True)
