"""Trainer: batches with the right labels, and the same loss and gradients however rows are laid out."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stage_runs import ROOT
from training import curve, scores, weights, write_tokens

from stages.common import tokens
from stages.common.tokens import TokenRow

PACKED = {"train.sft.packing": True, "train.sft.max_length": 64}
PADDING_FREE = {"train.sft.padding_free": True}


def test_the_labels_of_every_batch_are_the_ids_in_the_loss(
    trainer: Callable[..., Any], prepared: Path, tmp_path: Path
) -> None:
    rows = [
        *tokens.read(prepared / "val.arrow"),
        TokenRow([5, 6, 7], [1, 1, 1]),
        TokenRow([5, 8, 9, 8], [0, 1, 0, 1]),
    ]
    built = trainer({}, write_tokens(tmp_path / "rows.arrow", rows, batch_rows=4))
    for batches in (built.get_eval_dataloader(), built.get_train_dataloader()):
        found = []
        for batch in batches:
            assert set(batch) == {"attention_mask", "input_ids", "labels"}
            for ids, seen, labels in zip(*(batch[key].tolist() for key in sorted(batch)), strict=True):
                length = sum(ids)
                assert (ids, labels[length:]) == ([1] * length + [0] * len(ids[length:]), [-100] * len(ids[length:]))
                found.append((seen[:length], labels[:length]))
        expected = [
            (row.ids, [token if masked else -100 for token, masked in zip(*row, strict=True)]) for row in rows
        ]
        assert sorted(found) == sorted(expected)


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
@pytest.mark.parametrize("changes", [PACKED, PADDING_FREE], ids=["packed", "padding_free"])
def test_packed_rows_give_the_gradients_of_separate_rows(
    changes: dict[str, Any], attention: str, trainer: Callable[..., Any]
) -> None:
    import torch

    named = {"train.attn_implementation": attention}
    separate, expected, padded = gradients(trainer(named))
    together, found, batch = gradients(trainer({**named, **changes}))
    assert padded["input_ids"].shape == (3, 8)
    assert batch["input_ids"].shape == (1, 16)
    assert "attention_mask" not in batch
    assert together == pytest.approx(separate, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_packing_neither_loses_nor_cuts_a_row(trainer: Callable[..., Any], prepared: Path) -> None:
    from stages.train.data import batch_rows, row_lengths

    file = prepared / "train.arrow"
    lengths = row_lengths(file)
    packed = trainer({**PACKED, "train.sft.max_length": 3 * max(lengths)}, file)
    assert len(packed.train_dataset) < len(lengths) / 2
    found = [row for batch in packed.get_train_dataloader() for row in batch_rows(batch)]
    assert sorted(found) == sorted(row.ids for row in tokens.read(file))
    assert not [path for path in prepared.iterdir() if path.name.startswith("cache")]


def loss_of_rows(base: Path, file: Path) -> float:
    """Compute the mean loss of all tokens in the loss, row by row, without the project's code for batches."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for row in tokens.read(file):
        labels = torch.tensor([[token if masked else -100 for token, masked in zip(*row, strict=True)]])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([row.ids]), labels=labels).loss.item()
        in_loss = int((labels[:, 1:] != -100).sum())
        total, count = total + loss * in_loss, count + in_loss
    return total / count


@pytest.mark.parametrize("changes", [{}, PACKED, PADDING_FREE], ids=["padded", "packed", "padding_free"])
def test_the_eval_loss_does_not_depend_on_the_batches(
    changes: dict[str, Any], trainer: Callable[..., Any], base: Path, prepared: Path
) -> None:
    file = prepared / "val.arrow"
    assert trainer(changes, file).evaluate()["eval_loss"] == pytest.approx(loss_of_rows(base, file), rel=1e-5)


@pytest.mark.slow
def test_an_accumulated_batch_trains_the_same(adapter: Path, workspace: Path, train: Callable[..., Path]) -> None:
    import torch

    folder = train({"train.machine.device_batch_size": 8})
    assert curve(folder, "loss") == pytest.approx(curve(workspace, "loss"), abs=1e-4)
    assert scores(folder) == pytest.approx(scores(workspace), rel=1e-2)
    one, parts = weights(folder / "models" / "adapter"), weights(adapter)
    for name, weight in one.items():
        torch.testing.assert_close(weight, parts[name], rtol=0.05, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [PACKED, PADDING_FREE], ids=["packed", "padding_free"])
def test_it_trains_in_every_layout(changes: dict[str, Any], train: Callable[..., Path], prepared: Path) -> None:
    folder = train({**changes, "train.sft.max_steps": 1})
    assert scores(folder)["rows_train"] == tokens.table(prepared / "train.arrow").num_rows


@pytest.mark.slow
def test_two_processes_train_the_same(train: Callable[..., Path], prepared: Path, base: Path, tmp_path: Path) -> None:
    # The last batch of an epoch is not full: two processes fill it with rows from its start.
    changes = {"train.machine.device_batch_size": 8, "train.sft.logging_steps": 1, "train.sft.max_steps": 5}
    alone = curve(train(changes), "loss")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["torchrun", "--standalone", "--nproc-per-node", "2", "-m", "stages.train", "--base", str(base)]
    command += ["--train", str(prepared / "train.arrow"), "--val", str(prepared / "val.arrow"), "--out", "two"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("starting from step 0") == 1
    assert curve(tmp_path, "loss") == pytest.approx(alone, rel=2e-3)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.json",
    }


@pytest.mark.parametrize(
    "changes", [{}, {"train.sft.packing": True, "train.sft.max_length": 32}, {"train.sft.padding_free": True}]
)
def test_the_loss_and_its_gradients_are_transformers_own(
    changes: dict[str, Any], trainer: Callable[..., Any]
) -> None:
    """The output layer is computed at the positions with a label alone."""
    import torch
    import transformers

    built = trainer(changes)
    batch = dict(built.data_collator([built.train_dataset[place] for place in range(len(built.train_dataset))]))
    tokens = int((batch["labels"][:, 1:] != -100).sum())
    model = built.model.eval()
    gradients = []
    for compute in (built.compute_loss, lambda *given: transformers.Trainer.compute_loss(built, *given)):
        model.zero_grad()
        loss = compute(model, dict(batch), False, tokens)
        loss.backward()
        gradients.append([loss, *(weight.grad.clone() for weight in model.parameters() if weight.requires_grad)])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
