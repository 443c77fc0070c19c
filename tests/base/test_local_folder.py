"""Local folder: a model inside or outside the repository, pinned by the hash of its files, and left as it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.base import __main__ as stage
from stages.base import local_folder
from stages.common import files

pytestmark = pytest.mark.slow


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    """The tiny model's folder, outside the folder in which the stage runs."""
    ignored = shutil.ignore_patterns("manifest.json")
    return shutil.copytree(base, tmp_path.parent / f"{tmp_path.name}-models" / "mine", ignore=ignored)


def test_a_folder_becomes_the_base_model_and_stays_as_it_is(
    model: Path, params: Callable[..., Path], succeed: Callable[..., str], tmp_path: Path
) -> None:
    (model / "pytorch_model.bin").write_bytes(b"not wanted")
    (model / "README.md").write_text("not hashed", encoding="utf-8")
    before = files.hashes(model)
    used = {name: value for name, value in before.items() if name not in ("pytorch_model.bin", "README.md")}
    own = {"base.source": "folder", "base.folder": f"../{model.parent.name}/mine"}
    params(own | {"base.revision": local_folder.digest(model)})
    succeed(stage.main)
    out = tmp_path / "models" / "base"
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == {
        "id": "mine",
        "revision": local_folder.digest(model),
        "folder": f"../{model.parent.name}/mine",
        "files": used,
    }
    assert files.hashes(model) == before
    assert not (out / "model.safetensors").samefile(model / "model.safetensors")
    shutil.copytree(model, tmp_path / "inside")
    params(own | {"base.folder": "inside", "base.id": "team/mine", "base.revision": local_folder.digest(model)})
    succeed(stage.main)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["id"], manifest["folder"], manifest["files"]) == ("team/mine", "inside", used)


def test_a_folder_without_its_hash_or_with_other_files_is_refused(
    model: Path, params: Callable[..., Path], fail: Callable[..., str]
) -> None:
    own = {"base.source": "folder", "base.folder": str(model)}
    found = local_folder.digest(model)
    params(own)
    assert fail(stage.main) == (
        "params.yaml: base.revision: None is not the hash of the folder's files; after a look at them, set it to "
        f"{found}"
    )
    (model / "generation_config.json").write_text('{"eos_token_id": [2, 0]}', encoding="utf-8")
    params(own | {"base.revision": found})
    assert fail(stage.main) == (
        f"params.yaml: base.revision: the files in {model} have changed; restore them, or set it to "
        f"{local_folder.digest(model)}"
    )


def test_a_folder_that_is_absent_or_no_model_is_refused(
    model: Path, params: Callable[..., Path], fail: Callable[..., str]
) -> None:
    params({"base.source": "folder"})
    assert fail(stage.main) == "params.yaml: base.folder: needed with source: folder, such as ../models/my-model"
    params({"base.source": "folder", "base.folder": "none"})
    assert fail(stage.main) == (
        "params.yaml: base.folder: none: no such folder; a relative path starts at the repository, and a container "
        "sees nothing outside of it"
    )
    (model / "model.safetensors").unlink()
    params({"base.source": "folder", "base.folder": str(model)})
    assert "has no safetensors weights" in fail(stage.main)
