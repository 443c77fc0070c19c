"""Hub model: the stage's own process downloads from a local hub the files that are wanted, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import needs
import numpy as np
import pytest
from hub import COMMIT, Hub
from stage_runs import ROOT

from stages.common import files

pytestmark = pytest.mark.slow


@pytest.fixture
def model(base: Path, tmp_path: Path, hub: Hub) -> Path:
    """The tiny model's folder as a repository of the hub: lockstep/model."""
    folder = shutil.copytree(base, tmp_path / "model", ignore=shutil.ignore_patterns("manifest.json"))
    hub.models, hub.asked, hub.sent = {"lockstep/model": folder}, [], 0
    return folder


@pytest.fixture
def fetch(tmp_path: Path, params: Callable[..., Path], hub: Hub) -> Callable[..., tuple[int, str]]:
    """Run the stage in its own process against the hub, and return its exit code and last line."""

    def fetch(name: str, address: str = hub.address, offline: str = "0", **changes: str) -> tuple[int, str]:
        own = {"base.source": "hub", "base.id": name, "base.revision": COMMIT}
        path = params(own | {f"base.{key}": value for key, value in changes.items()})
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        environment |= {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path / "cache")}
        environment |= {"MODELSCOPE_ENDPOINT": address, "MODELSCOPE_CACHE": str(tmp_path / "modelscope")}
        command = [sys.executable, "-m", "stages.base", "--params", str(path), "--out", str(tmp_path / "out")]
        command += ["--templates", str(tmp_path / "templates")]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
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


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("lockstep/absent", {}, "{hub} has no such model, or hides it; check the id, or set HF_TOKEN"),
        ("lockstep/gated", {}, "gated; accept its licence at {hub}/lockstep/gated, and set HF_TOKEN"),
        (
            "lockstep/model",
            {"revision": COMMIT[::-1]},
            "the model has no such commit; get the hash with "
            "`git ls-remote https://huggingface.co/lockstep/model HEAD`",
        ),
    ],
    ids=["absent", "gated", "commit"],
)
def test_a_hub_that_refuses_is_an_error(
    model: Path,
    hub: Hub,
    fetch: Callable[..., tuple[int, str]],
    tmp_path: Path,
    name: str,
    changes: dict[str, str],
    message: str,
) -> None:
    revision = changes.get("revision", COMMIT)
    expected = f"Error: base.id: {name} at {revision}: {message.format(hub=hub.address)}"
    assert fetch(name, **changes) == (1, expected)
    assert not (tmp_path / "out").exists()


def test_a_hub_that_cannot_be_reached_is_an_error(fetch: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, message = fetch("lockstep/model", "http://127.0.0.1:9")
    assert code == 1
    assert message.startswith(f"Error: base.id: lockstep/model at {COMMIT}: ")
    assert message.endswith("; check id, hash and network (http://127.0.0.1:9: HF_ENDPOINT names a mirror)")
    assert not (tmp_path / "out").exists()


def test_no_weights_are_downloaded_before_the_template_fits_and_none_twice(
    model: Path, hub: Hub, fetch: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "templates").mkdir()
    (model / "chat_template.jinja").rename(tmp_path / "templates" / "marked.jinja")
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}|{% endfor %}", encoding="utf-8"
    )
    code, message = fetch("lockstep/model")
    assert code == 1
    named = Path(message.removeprefix("Error: ").partition(":")[0])  # the file to read is still there
    assert named.read_text(encoding="utf-8") == (model / "chat_template.jinja").read_text(encoding="utf-8")
    assert "model.safetensors" not in hub.asked
    assert fetch("lockstep/model", chat_template="marked.jinja")[0] == 0
    assert fetch("lockstep/model", chat_template="marked.jinja")[0] == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert sorted(hub.asked) == sorted(set(hub.asked))
    # A change of models/base does not reach the cache, and the weights take disk once.
    assert named.read_text(encoding="utf-8") != (tmp_path / "out" / "chat_template.jinja").read_text(encoding="utf-8")
    assert (named.parent / "model.safetensors").resolve().samefile(tmp_path / "out" / "model.safetensors")


def test_a_model_in_the_cache_needs_no_hub_when_offline(
    model: Path, hub: Hub, fetch: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    cache = tmp_path / "cache" / "hub"
    code, message = fetch("lockstep/model", offline="1")
    assert (code, message) == (
        1,
        f"Error: base.id: lockstep/model at {COMMIT}: not whole in the cache {cache}, and HF_HUB_OFFLINE is set; "
        "unset it, or copy the model's folder from another machine's cache",
    )
    assert fetch("lockstep/model")[0] == 0
    assert fetch("lockstep/model", "http://127.0.0.1:9", offline="1")[0] == 0
    weights = next(cache.rglob("snapshots/*/model.safetensors"))
    weights.unlink()
    code, message = fetch("lockstep/model", "http://127.0.0.1:9", offline="1")
    assert (code, "not whole in the cache" in message) == (1, True)
    weights.write_bytes((model / "model.safetensors").read_bytes()[:-1])
    code, message = fetch("lockstep/model", "http://127.0.0.1:9", offline="1")
    assert (code, f"{weights} is cut off or damaged" in message) == (1, True)


def test_after_a_download_that_breaks_off_whole_files_are_not_downloaded_again(
    model: Path, hub: Hub, fetch: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    from safetensors.numpy import save_file

    (model / "model.safetensors").rename(model / "model-1.safetensors")
    save_file({"second": np.arange(100)}, model / "model-2.safetensors")
    index = {"weight_map": {"first": "model-1.safetensors", "second": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    hub.broken = {"model-2.safetensors"}
    while fetch("lockstep/model")[0]:  # most errors of the network are tried again in the same run
        assert hub.broken == set()
    assert files.sha256(tmp_path / "out" / "model-2.safetensors") == files.sha256(model / "model-2.safetensors")
    counts = {name: hub.asked.count(name) for name in set(hub.asked)}
    assert counts == {name: 2 if name == "model-2.safetensors" else 1 for name in counts}


def test_a_model_of_modelscope_is_downloaded_once_and_works_offline(
    model: Path, hub: Hub, fetch: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    if not find_spec("modelscope_hub"):
        needs.missing("modelscope")
    (model / "pytorch_model.bin").write_bytes(b"not wanted")
    assert fetch("lockstep/model", source="modelscope")[0] == 0
    assert fetch("lockstep/model", "http://127.0.0.1:9", offline="1", source="modelscope")[0] == 0
    wanted = {name: value for name, value in files.hashes(model).items() if name != "pytorch_model.bin"}
    assert sorted(hub.asked) == sorted(wanted)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == {"id": "lockstep/model", "revision": COMMIT, "files": wanted}
    code, message = fetch("lockstep/absent", source="modelscope")
    assert (code, message.startswith(f"Error: base.id: lockstep/absent at {COMMIT}: ")) == (1, True)
    assert message.endswith("check id, hash and network (MODELSCOPE_ENDPOINT)")


def test_only_the_weights_that_the_index_names_are_downloaded(
    model: Path, hub: Hub, fetch: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    (model / "consolidated.safetensors").write_bytes(b"the same weights in another format")
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert fetch("lockstep/model")[0] == 0
    assert "consolidated.safetensors" not in hub.asked
    assert (tmp_path / "out" / "model-00001-of-00001.safetensors").exists()
