"""Agreement: KL and top-1 over assistant tokens, with one model in memory at a time."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapters import ALL, adapt, load

from stages.common import agreement, device, files, tokens

LARGE = ALL | {"lora_alpha": 200}


def test_the_comparison_is_kl_and_top1_over_assistant_tokens(base: Path, prepared: Path, tmp_path: Path) -> None:
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
    found = agreement.compare(lambda: one, {"other": lambda: other}, prepared_rows, 3, tmp_path)["other"]
    assert found["tokens"] == len(same)
    assert found["kl_mean"] == pytest.approx(sum(divergences) / len(divergences), rel=1e-4, abs=1e-7)
    assert found["kl_max"] == pytest.approx(max(divergences), rel=1e-4, abs=1e-7)
    assert found["top1_agreement"] == pytest.approx(sum(same) / len(same), abs=1e-6)
    assert found["kl_mean"] > 1e-3
    alone = agreement.compare(lambda: one, {"one": lambda: one}, prepared_rows, 3, tmp_path)["one"]
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
            model = agreement.load(base, device.choose(), folder)
            held.append(weakref.ref(model))
            return model

        return start

    others = {"adapter": loading(adapter), "base": loading(None)}
    once = agreement.compare(loading(None), others, rows, 2, tmp_path)
    assert len(held) == 3
    bit_by_bit = agreement.compare(loading(None), others, rows, 2, tmp_path, most=1)
    assert len(held) == 3 + 3 * -(-len(rows) // 2)
    assert once["base"]["kl_mean"] == 0 < once["adapter"]["kl_mean"]
    assert bit_by_bit == once
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
