"""Merge: files that are the base's in every other respect, and a comparison that holds one model at a time.

The numbers themselves are in test_merging.py, what cannot be merged in test_misfits.py.
"""

import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapters import ALL, adapt, load

from stages import merge as stage
from stages.common import agreement, files, tokens

LARGE = ALL | {"lora_alpha": 200}


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
        *("base_size_bytes", "kl_max", "kl_mean", "merged_tensors", "rows", "size_bytes", "tokens", "top1_agreement")
    }
    assert 0 <= found["kl_mean"] <= found["kl_max"] < 1e-3
    assert found["top1_agreement"] >= 0.99
    assert found["size_bytes"] == found["base_size_bytes"] == files.size_bytes(base)
    assert found["merged_tensors"] == 14


def test_the_comparison_is_kl_and_top1_over_the_answers_tokens(base: Path, prepared: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoTokenizer

    one = load(base)
    other = PeftModel.from_pretrained(load(base), adapt(base, tmp_path / "adapter", **LARGE)).eval()
    rows = [row["messages"] for row in files.read_rows(prepared / "val.jsonl")]
    rows[0] = [*rows[0], {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No."}]
    tokenizer = AutoTokenizer.from_pretrained(base)
    divergences, same, prepared_rows = [], [], []
    for row in rows:
        encoded = tokenizer.apply_chat_template(
            row, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
        )
        mask = torch.as_tensor(encoded["assistant_masks"]).reshape(-1)
        prepared_rows.append(tokens.TokenRow(encoded["input_ids"][0].tolist(), mask.tolist()))
        answer = mask[1:].bool()
        with torch.inference_mode():
            p, q = (model(encoded["input_ids"]).logits[0, :-1][answer].double().softmax(-1) for model in (one, other))
        divergences += (p * (p / q).log()).sum(-1).tolist()
        same += (p.argmax(-1) == q.argmax(-1)).tolist()
    found = agreement.compare(lambda: one, lambda: other, prepared_rows, 3, tmp_path)
    assert found["tokens"] == len(same)
    assert found["kl_mean"] == pytest.approx(sum(divergences) / len(divergences), rel=1e-4, abs=1e-7)
    assert found["kl_max"] == pytest.approx(max(divergences), rel=1e-4, abs=1e-7)
    assert found["top1_agreement"] == pytest.approx(sum(same) / len(same), abs=1e-6)
    assert found["kl_mean"] > 1e-3
    alone = agreement.compare(lambda: one, lambda: one, prepared_rows, 3, tmp_path)
    assert (alone["kl_mean"], alone["kl_max"], alone["top1_agreement"]) == (0, 0, 1)


def test_the_comparison_holds_one_model_at_a_time_and_little_on_disk(
    base: Path, prepared: Path, tmp_path: Path
) -> None:
    adapter = adapt(base, tmp_path / "adapter", **LARGE)
    rows = tokens.read(prepared / "val.arrow")
    held: list[weakref.ref[Any]] = []

    def loading(folder: Path | None) -> Callable[[], Any]:
        def start() -> Any:
            assert [model for model in held if model() is not None] == []
            place = stage.device.choose()
            model = stage.load(base, place, folder)
            held.append(weakref.ref(model))
            return model

        return start

    once = agreement.compare(loading(None), loading(adapter), rows, 2, tmp_path)
    assert len(held) == 2
    bit_by_bit = agreement.compare(loading(None), loading(adapter), rows, 2, tmp_path, most=1)
    assert len(held) == 2 + 2 * -(-len(rows) // 2)
    assert bit_by_bit == once
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("models/base", "dvc repro base"),
        ("models/adapter/adapter_config.json", "dvc repro train"),
        ("models/adapter/adapter_model.safetensors", "dvc repro train"),
        ("models/adapter/base.json", "dvc repro train"),
        ("data/prepared/val.arrow", "dvc repro"),
    ],
)
def test_missing_inputs_are_named(
    params: Callable[..., Path], fail: Callable[..., str], workspace: Path, adapter: Path, missing: str, command: str
) -> None:
    folder = params().parent
    shutil.copytree(workspace / "models", folder / "models", ignore=shutil.ignore_patterns("merged", "awq"))
    shutil.copytree(workspace / "data", folder / "data")
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert fail(stage.main) == f"{missing}: no such file or folder; run `{command}` first"
    assert not (folder / "models" / "merged").exists()
