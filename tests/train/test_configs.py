"""Configs: how a batch is split, and params in the libraries' configs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from training import curve, weights

from stages.common import device
from stages.common.params import load_params
from stages.train.params import TrainParams


@pytest.mark.parametrize(
    ("batch_size", "device_batch_size", "world_size", "expected"),
    [
        (32, 32, 1, (32, 1)),
        (32, 64, 1, (32, 1)),
        (32, 8, 1, (8, 4)),
        (32, 5, 1, (4, 8)),
        (32, 8, 2, (8, 2)),
        (32, 8, 4, (8, 1)),
        (32, 8, 32, (1, 1)),
        (7, 4, 1, (1, 7)),
        (1, 1, 1, (1, 1)),
    ],
)
def test_the_global_batch_is_split_exactly(
    batch_size: int, device_batch_size: int, world_size: int, expected: tuple[int, int]
) -> None:
    from stages.train.configs import split_batch

    size, accumulation = split_batch(batch_size, device_batch_size, world_size)
    assert (size, accumulation) == expected
    assert size * accumulation * world_size == batch_size
    assert size <= device_batch_size


@pytest.mark.parametrize(("batch_size", "world_size"), [(32, 3), (2, 4)])
def test_a_batch_that_cannot_be_split_is_an_error(batch_size: int, world_size: int) -> None:
    from stages.train.configs import split_batch

    with pytest.raises(click.ClickException, match=f"train.batch_size {batch_size} .* {world_size} processes"):
        split_batch(batch_size, 8, world_size)


def test_the_number_of_processes_comes_from_the_launcher(
    params: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.train.configs import make_configs

    monkeypatch.setenv("WORLD_SIZE", "3")
    file = params()
    with pytest.raises(click.ClickException, match="3 processes"):
        make_configs(file, load_params(file, "train", TrainParams), device.choose())


@pytest.mark.slow
def test_the_params_reach_the_libraries(train: Callable[..., Path]) -> None:
    changes: dict[str, Any] = {
        "train.lora.r": 2,
        "train.lora.lora_alpha": 3,
        "train.lora.use_rslora": True,
        "train.lora.target_modules": ["up_proj", "q_proj"],
        "train.lora.exclude_modules": ["model.layers.1.mlp.up_proj"],
        "train.sft.max_steps": 1,
        "train.sft.learning_rate": 0.5,
        "train.sft.logging_steps": 1,
        "train.sft.lr_scheduler_type": "constant",
        "train.sft.eval_strategy": "no",
    }
    folder = train(changes)
    trained = weights(folder / "models" / "adapter")
    assert {tuple(name.split(".")[-4:-2]) for name in trained} == {("self_attn", "q_proj"), ("mlp", "up_proj")}
    assert len(trained) == 2 * 3
    assert all(2 in weight.shape for weight in trained.values())
    assert curve(folder, "learning_rate") == {1: 0.5}
    assert list(curve(folder, "eval_loss")) == [1]  # what the scores need, whatever the schedule
