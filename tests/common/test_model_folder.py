"""Model folder: every stage refuses a pickle, code, and a link to a file outside."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from folder_readers import READERS

from stages.common import model_folder
from stages.train import __main__ as train


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, ("sprung", "w"))


@pytest.mark.parametrize("reader", READERS, ids="-".join)
def test_every_stage_refuses_a_pickle(outputs: Path, fail: Callable[..., str], reader: tuple[str, str]) -> None:
    main, arguments = READERS[reader]
    planted = outputs / "models" / reader[1] / "pytorch_model.bin"
    planted.write_bytes(pickle.dumps(Trap()))
    before = {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}
    message = fail(main, *arguments)
    assert message.startswith(f"models/{reader[1]}/pytorch_model.bin: unsupported file type")
    assert "`dvc repro" in message
    assert {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("reader", READERS, ids="-".join)
def test_every_stage_refuses_a_link_to_a_file_outside(
    outputs: Path, fail: Callable[..., str], reader: tuple[str, str]
) -> None:
    main, arguments = READERS[reader]
    config = next((outputs / "models" / reader[1]).glob("*config.json"))
    config.rename(outputs / "elsewhere.json")
    config.symlink_to(outputs / "elsewhere.json")
    assert fail(main, *arguments).startswith(f"{config.relative_to(outputs)}: links to {outputs / 'elsewhere.json'}")


def test_links_inside_a_folder_and_to_a_folder_are_allowed(outputs: Path) -> None:
    (outputs / "models" / "base" / "again.json").symlink_to("config.json")
    (outputs / "linked").symlink_to(outputs / "models" / "base")
    model_folder.require(outputs / "linked", "dvc repro base")


@pytest.mark.parametrize(
    "name", ["modeling_ours.py", "optimizer.pt", "weights.h5", "model.safetensors.exe", "sub/x.so"]
)
def test_a_file_of_another_type_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    with pytest.raises(click.ClickException, match=f"^{path}: unsupported file type"):
        model_folder.require(tmp_path / "model", "dvc repro base")


def test_an_adapter_to_start_from_must_not_be_a_pickle(
    outputs: Path, params: Callable[..., Path], fail: Callable[..., str], adapter: Path
) -> None:
    start = outputs / "data" / "start" / "theirs"
    shutil.copytree(adapter, start)
    (start / "adapter_model.safetensors").unlink()
    (start / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    params({"train.resume_from": "theirs"})
    assert fail(train.main).startswith("data/start/theirs: ")
    assert not (outputs / "sprung").exists()
