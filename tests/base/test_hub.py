"""Hub model: the stage's own process downloads from a local hub the files that are wanted, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hub import COMMIT, Hub
from stage_runs import ROOT

from stages.common import files

pytestmark = pytest.mark.slow


@pytest.fixture
def model(base: Path, tmp_path: Path, hub: Hub) -> Path:
    """The tiny model's folder as a repository of the hub: lockstep/model."""
    folder = shutil.copytree(base, tmp_path / "model", ignore=shutil.ignore_patterns("manifest.json"))
    hub.models, hub.asked = {"lockstep/model": folder}, []
    return folder


@pytest.fixture
def fetch(tmp_path: Path, params: Callable[..., Path], hub: Hub) -> Callable[..., tuple[int, str]]:
    """Run the stage in its own process against the hub, and return its exit code and last line."""

    def fetch(name: str, address: str = hub.address) -> tuple[int, str]:
        path = params({"base.source": "hub", "base.id": name, "base.revision": COMMIT})
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        environment |= {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "stages.base", "--params", str(path), "--out", str(tmp_path / "out")]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
        assert "Traceback" not in done.stderr
        return done.returncode, (done.stdout or done.stderr).splitlines()[-1]

    return fetch


def test_a_model_is_downloaded_without_pickles_and_code(
    model: Path, hub: Hub, fetch: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (model / "onnx").mkdir()
    unwanted = ("pytorch_model.bin", "modeling_tiny.py", "README.md", "onnx/model.safetensors", "onnx/config.json")
    for name in unwanted:
        (model / name).write_bytes(b"not wanted")
    weights = (model / "model.safetensors").stat().st_size
    assert fetch("lockstep/model") == (0, f"lockstep/model at {COMMIT}: {weights} bytes of weights in {tmp_path}/out")
    expected = {name: value for name, value in files.hashes(model).items() if name not in unwanted}
    assert sorted(hub.asked) == sorted(expected)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == {"id": "lockstep/model", "revision": COMMIT, "files": expected}
    found = files.hashes(tmp_path / "out")
    found.pop("manifest.json")
    assert found == expected
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o644}


@pytest.mark.parametrize("absent", ["model.safetensors", "chat_template.jinja"])
def test_a_model_that_lacks_a_file_is_refused(
    model: Path, fetch: Callable[..., tuple[int, str]], tmp_path: Path, absent: str
) -> None:
    (model / "pytorch_model.bin").write_bytes(b"not wanted")
    (model / absent).unlink()
    code, message = fetch("lockstep/model")
    assert code == 1
    assert ("base.id: lockstep/model" if absent == "model.safetensors" else "base.chat_template") in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["lockstep/absent", "lockstep/gated"])
def test_a_hub_that_refuses_is_an_error(
    model: Path, fetch: Callable[..., tuple[int, str]], tmp_path: Path, name: str
) -> None:
    code, message = fetch(name)
    assert code == 1
    assert message.startswith(f"Error: base.id: {name} at {COMMIT}: {'403' if name.endswith('gated') else '404'} ")
    assert "HF_TOKEN" in message
    assert not (tmp_path / "out").exists()


def test_a_hub_that_cannot_be_reached_is_an_error(fetch: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, message = fetch("lockstep/model", "http://127.0.0.1:9")
    assert code == 1
    assert message.startswith(f"Error: base.id: lockstep/model at {COMMIT}: ")
    assert "HF_TOKEN" in message
    assert not (tmp_path / "out").exists()
