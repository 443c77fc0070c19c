"""Packing: rows end to end learn what they learn apart, none is lost or cut, and models that mix them are refused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from stages import train as stage
from stages.common import device, settings, tokens

PACKED = {"train.sft.packing": True, "train.sft.max_length": 64}
ROWS = [[5, 6, 7, 8, 9, 10, 11, 12], [20, 21, 22, 23, 24], [30, 31, 32]]
MASKS = [[0, 0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 1, 1]]


@pytest.fixture
def trainer(params: Callable[..., Path], base: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Build the stage's trainer with other params, on rows of token ids or on those of a file."""

    def trainer(changes: dict[str, Any], file: Path | None = None) -> Any:
        import pyarrow as pa

        from stages.common import method, training

        if file is None:
            file = tmp_path / "train.arrow"
            with pa.ipc.new_stream(str(file), tokens.SCHEMA) as out:
                out.write_batch(pa.record_batch([ROWS, MASKS], schema=tokens.SCHEMA))
        path, place = params(changes), device.choose()
        config = settings.load(path, "train", stage.TrainParams)
        lora, arguments = training.configs(path, config, place)
        model = method.load(path, base, config, place, None)
        return training.make_trainer(path, config, model, base, (file, file), lora, arguments, tmp_path / "scratch")

    return trainer


def gradients(trainer: Any) -> tuple[float, dict[str, Any], Any]:
    import torch

    torch.manual_seed(7)
    for name, weight in trainer.model.named_parameters():
        if "lora_" in name:  # B starts as zero, which would hide the gradient of A
            torch.nn.init.normal_(weight, std=0.1)
    (batch,) = trainer.get_train_dataloader()
    loss = trainer.compute_loss(trainer.model.train(), dict(batch))
    loss.backward()
    return loss.item(), {n: w.grad for n, w in trainer.model.named_parameters() if w.grad is not None}, batch


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("changes", [PACKED, {"train.sft.padding_free": True}], ids=["packed", "padding_free"])
def test_rows_end_to_end_learn_what_they_learn_apart(
    changes: dict[str, Any], attention: str, trainer: Callable[..., Any]
) -> None:
    import torch

    named = {"train.attn_implementation": attention}
    apart, expected, padded = gradients(trainer(named))
    together, found, batch = gradients(trainer({**named, **changes}))
    assert padded["input_ids"].shape == (3, 8)
    assert batch["input_ids"].shape == (1, 16)
    assert "attention_mask" not in batch
    assert together == pytest.approx(apart, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_no_row_is_lost_or_cut(trainer: Callable[..., Any], prepared: Path) -> None:
    from stages.common import packing

    file = prepared / "train.arrow"
    longest = max(tokens.lengths(file))
    packed = trainer({**PACKED, "train.sft.max_length": 3 * longest}, file)
    assert len(packed.train_dataset) < len(tokens.lengths(file)) / 2
    found = [row for batch in packed.get_train_dataloader() for row in packing.rows(batch)]
    assert sorted(found) == sorted(row.ids for row in tokens.read(file))
    assert not [path for path in prepared.iterdir() if path.name.startswith("cache")]


def test_a_row_longer_than_a_pack_is_an_error(trainer: Callable[..., Any]) -> None:
    with pytest.raises(click.ClickException, match=r"max_length: must be at least 8, the longest row's .*\(got 7\)"):
        trainer({**PACKED, "train.sft.max_length": 7})


def test_a_model_whose_rows_see_each_other_is_refused() -> None:
    import torch
    import transformers
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from stages.common import packing

    torch.manual_seed(7)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 32, "pad_token_id": 0}
    recurrent = transformers.MambaForCausalLM(transformers.MambaConfig(**shape, state_size=4, use_cache=False))
    collate = DataCollatorForLanguageModeling(0, padding_free=True)
    with pytest.raises(click.ClickException, match=r"MambaForCausalLM with attn_implementation .* see each other"):
        packing.require_isolation(Path("params.yaml"), recurrent, collate)


@pytest.mark.parametrize("changes", [PACKED, {"train.sft.padding_free": True}], ids=["packed", "padding_free"])
def test_it_trains_to_a_score_that_knows_no_layout(
    changes: dict[str, Any],
    params: Callable[..., Path],
    succeed: Callable[..., str],
    prepared: Path,
    base: Path,
    tmp_path: Path,
) -> None:
    params({**changes, "train.sft.learning_rate": 0.0, "train.sft.max_steps": 1})
    rows = ("--train", prepared / "train.arrow", "--val", prepared / "val.arrow")
    said = succeed(stage.main, "--base", base, *rows)
    layout = "packed rows of at most 64 tokens" if "train.sft.packing" in changes else "without padding"
    assert layout in said
    scores = json.loads((tmp_path / "metrics" / "train.json").read_text(encoding="utf-8"))
    assert scores["rows_train"] == len(tokens.lengths(prepared / "train.arrow"))
    assert scores["eval_loss"] == pytest.approx(answer_loss(base, prepared / "val.arrow"), rel=1e-5)


def answer_loss(base: Path, file: Path) -> float:
    """The mean loss of all learnt tokens, row by row, without any of our code that makes batches."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for row in tokens.read(file):
        labels = torch.tensor([[token if learnt else -100 for token, learnt in zip(*row, strict=True)]])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([row.ids]), labels=labels).loss.item()
        learnt = int((labels[:, 1:] != -100).sum())
        total, count = total + loss * learnt, count + learnt
    return total / count
