"""Model folders: a planted pickle, code, a link out and a changed byte are refused, and what a stage had stays."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from recorded import LIMITS, write_metrics

from stages import awq, eval, merge, report, train
from stages.common import folders
from tools import gate

# Each stage with a folder of models/ that it reads.
READERS = {
    ("train", "base"): (train.main, ()),
    ("merge", "base"): (merge.main, ()),
    ("merge", "adapter"): (merge.main, ()),
    ("awq", "merged"): (awq.main, ()),
    ("eval", "awq"): (eval.main, ("--model", "models/awq", "--metrics", "x.json", "--answers", "x.jsonl")),
    ("report", "awq"): (report.main, ()),
}


class Trap:
    """Once unpickled, it leaves a file."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, ("sprung", "w"))


@pytest.fixture
def run(params: Callable[..., Path], workspace: Path, scored: Path, tmp_path: Path) -> Path:
    """Copy the session's run, so that it can be spoiled; `scored` has every stage run."""
    params(LIMITS)
    for name in ("data", "models", "requirements"):
        shutil.copytree(workspace / name, tmp_path / name)
    write_metrics(tmp_path, {})
    return tmp_path


@pytest.mark.parametrize("reader", READERS, ids="-".join)
def test_every_stage_refuses_a_planted_pickle(run: Path, fail: Callable[..., str], reader: tuple[str, str]) -> None:
    main, arguments = READERS[reader]
    planted = run / "models" / reader[1] / "pytorch_model.bin"
    planted.write_bytes(pickle.dumps(Trap()))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert fail(main, *arguments).startswith(
        f"models/{reader[1]}/pytorch_model.bin: no kind of file that is loaded (pickles and code can do anything); "
        "delete it, or run `dvc repro"
    )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("reader", READERS, ids="-".join)
def test_every_stage_refuses_a_link_out_of_the_folder(
    run: Path, fail: Callable[..., str], reader: tuple[str, str]
) -> None:
    main, arguments = READERS[reader]
    config = next((run / "models" / reader[1]).glob("*config.json"))
    config.rename(run / "elsewhere.json")
    config.symlink_to(run / "elsewhere.json")
    assert fail(main, *arguments).startswith(
        f"{config.relative_to(run)}: leads out of the folder, to {run / 'elsewhere.json'}; put the file itself there"
    )


def test_links_inside_a_folder_and_to_a_folder_are_no_harm(run: Path) -> None:
    (run / "models" / "base" / "again.json").symlink_to("config.json")
    (run / "linked").symlink_to(run / "models" / "base")
    folders.require(run / "linked", "dvc repro base")


@pytest.mark.parametrize(
    "name", ["modeling_ours.py", "optimizer.pt", "weights.h5", "model.safetensors.exe", "sub/x.so"]
)
def test_a_file_of_no_known_kind_is_refused(run: Path, fail: Callable[..., str], name: str) -> None:
    path = run / "models" / "merged" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    assert fail(awq.main).startswith(f"models/merged/{name}: no kind of file that is loaded")


def test_an_adapter_to_start_from_is_no_pickle(
    run: Path, params: Callable[..., Path], fail: Callable[..., str], adapter: Path
) -> None:
    start = run / "data" / "start" / "theirs"
    shutil.copytree(adapter, start)
    (start / "adapter_model.safetensors").unlink()
    (start / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    params({"train.resume_from": "theirs"})
    assert fail(train.main) == (
        "data/start/theirs: no safetensors weights, and pickles are never loaded; convert them"
    )
    assert not (run / "sprung").exists()


def judge(run: Path, succeed: Callable[..., str]) -> None:
    succeed(report.main)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run)
        assert CliRunner().invoke(gate.main).exit_code == 0


@pytest.mark.parametrize("change", ["a byte", "a file more", "a file less"])
def test_make_gate_refuses_other_bytes_than_those_judged(
    run: Path, succeed: Callable[..., str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    judge(run, succeed)
    path = run / "models" / "awq" / ("more.json" if change == "a file more" else "model.safetensors")
    if change == "a byte":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif change == "a file more":
        path.write_text("{}")
    else:
        path.unlink()
    monkeypatch.chdir(run)
    done = CliRunner().invoke(gate.main)
    assert done.exit_code == 1
    assert done.stderr == (
        f"{path.relative_to(run)}: not as it was judged; "
        "`dvc checkout --force models/awq` brings back what was, or else `make repro`\n"
    )


def test_make_gate_does_without_the_models(
    run: Path, succeed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(run, succeed)
    shutil.rmtree(run / "models" / "merged")
    monkeypatch.chdir(run)
    assert CliRunner().invoke(gate.main).exit_code == 0
