"""Merge, the command: apart from the changed weights, the files and bytes of the base model, and the metrics."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from adapters import ALL, adapt, load, tensors

from stages.common import files
from stages.merge import __main__ as stage


def test_the_merged_model_is_the_base_in_every_other_respect(merged: Path, base: Path) -> None:
    names = {path.name for path in base.iterdir()} - {"manifest.json"}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"} <= names
    assert {path.name for path in merged.iterdir()} == names
    for name in names - {"model.safetensors"}:
        assert (merged / name).read_bytes() == (base / name).read_bytes(), name
    one, other = ((folder / "model.safetensors").read_bytes() for folder in (merged, base))
    header = 8 + int.from_bytes(one[:8], "little")
    assert one[:header] == other[:header]
    assert len(one) == len(other)
    assert one != other
    assert json.loads((merged / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"] is True


def test_files_keep_their_tensors_when_there_are_several(
    params: Callable[..., Path], succeed: Callable[..., str], base: Path, prepared: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(base, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    load(base).save_pretrained(folder, max_shard_size="500KB")
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 1
    adapt(folder, tmp_path / "adapter", **ALL)
    params({"merge.rows": 4})
    succeed(stage.main, "--base", folder, "--adapter", "adapter", "--val", prepared / "val.arrow")
    out = tmp_path / "models" / "merged"
    assert sorted(path.name for path in out.glob("*.safetensors")) == shards
    for name in shards:
        size = 8 + int.from_bytes((out / name).read_bytes()[:8], "little")
        assert (out / name).read_bytes()[:size] == (folder / name).read_bytes()[:size]
    index = "model.safetensors.index.json"
    assert (out / index).read_bytes() == (folder / index).read_bytes()
    assert json.loads((tmp_path / "metrics" / "merge.json").read_text())["rows"] == 4


def test_in_float32_nothing_is_lost_and_the_files_say_so(
    params: Callable[..., Path], succeed: Callable[..., str], base: Path, prepared: Path, tmp_path: Path
) -> None:
    """With several shards, a dtype in its old place, and numbers that stay bfloat16 in the base."""
    import torch
    from peft import PeftModel

    folder = shutil.copytree(base, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    load(base, torch.bfloat16).save_pretrained(folder, max_shard_size="300KB")
    adapter = adapt(folder, tmp_path / "adapter", **ALL)
    params({"merge.rows": 4, "merge.dtype": "float32"})
    succeed(stage.main, "--base", folder, "--adapter", "adapter", "--val", prepared / "val.arrow")
    out = tmp_path / "models" / "merged"
    exact = PeftModel.from_pretrained(load(folder), adapter).merge_and_unload().state_dict()
    found = tensors(out)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert all(tensor.equal(exact[name]) for name, tensor in found.items())
    assert len(list(out.glob("*.safetensors"))) == len(list(folder.glob("*.safetensors"))) > 1
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["dtype"] == "float32"
    index = json.loads((out / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in found.values())
    scores = json.loads((tmp_path / "metrics" / "merge.json").read_text(encoding="utf-8"))
    assert (scores["misplaced_weights"], scores["kept"]) == (0, 1)
    assert load(out).state_dict().keys() == exact.keys()


def test_merging_again_gives_the_same_bytes(
    params: Callable[..., Path], succeed: Callable[..., str], workspace: Path, merged: Path
) -> None:
    folder = params().parent
    for name in ("data", "models"):
        (folder / name).symlink_to(workspace / name)
    succeed(stage.main, "--out", "again")
    assert files.hashes(folder / "again") == files.hashes(merged)
    assert (folder / "metrics" / "merge.json").read_bytes() == (workspace / "metrics" / "merge.json").read_bytes()


def test_the_metrics_have_their_names_and_pass_the_gates(merged: Path, workspace: Path, base: Path) -> None:
    found = json.loads((workspace / "metrics" / "merge.json").read_text())
    assert set(found) == {
        *("base_size_bytes", "kl_max", "kl_mean", "merged_tensors", "rows", "size_bytes", "tokens", "top1_agreement"),
        *("checked_tensors", "kept", "kl_base_mean", "misplaced_weights"),
    }
    assert (found["checked_tensors"], found["misplaced_weights"]) == (14, 0)
    assert found["kept"] == round(1 - found["kl_mean"] / found["kl_base_mean"], 6) > 0.9
    assert 0 <= found["kl_mean"] <= found["kl_max"] < 1e-3
    assert found["top1_agreement"] >= 0.99
    assert found["size_bytes"] == found["base_size_bytes"] == files.size_bytes(base)
    assert found["merged_tensors"] == 14
