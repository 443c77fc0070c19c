"""Memory: what is computed on shapes is what a real step takes."""

from collections.abc import Callable
from typing import Any

import pytest

SHARE = 0.02  # of rounding: a real step has a few small results that depend on data


def peak(trainer: Any) -> tuple[int, int]:
    """What the stage computes for a trainer's largest batch."""
    from stages.train.memory import peak_bytes

    return peak_bytes(trainer.model, trainer.args, largest(trainer))


def largest(trainer: Any) -> dict[str, Any]:
    from stages.train.memory import largest_batch

    places = largest_batch(trainer.sampler, trainer.args)
    return dict(trainer.data_collator([trainer.train_dataset[place] for place in places]))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train.machine.device_batch_size": 1},
        {"train.sft.gradient_checkpointing": True},
        {"train.sft.packing": True, "train.sft.max_length": 32},
        {"train.sft.padding_free": True},
        {"train.lora.use_dora": True},
        {"train.method": "full"},
        {"train.sft.label_smoothing_factor": 0.1},
    ],
    ids=["lora", "one row", "checkpointing", "packed", "padding-free", "dora", "full", "label smoothing"],
)
def test_the_peak_of_a_step_is_that_of_a_real_one(changes: dict[str, Any], trainer: Callable[..., Any]) -> None:
    from stages.train.memory import LiveBytes

    built = trainer(changes)
    weights, expected = peak(built)
    model = built.model.train()
    if built.args.gradient_checkpointing:
        model.gradient_checkpointing_enable(built.args.gradient_checkpointing_kwargs)
    batch = largest(built)
    live = LiveBytes(
        [*model.parameters(), *model.buffers(), *(value for value in batch.values() if hasattr(value, "numel"))]
    )
    with live:
        built.compute_loss(model, batch).backward()
    assert live.peak == pytest.approx(expected, rel=SHARE)
    trainable = [weight.numel() for weight in model.parameters() if weight.requires_grad]
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
    assert weights >= sum(weight.numel() * weight.element_size() for weight in model.parameters()) + 8 * sum(
        trainable
    )


def test_it_grows_with_the_batch_and_the_model_stays_as_it_is(trainer: Callable[..., Any]) -> None:
    built = trainer({"train.machine.device_batch_size": 1})
    before = {name: weight.clone() for name, weight in built.model.state_dict().items()}
    small = peak(built)
    large = peak(trainer({"train.machine.device_batch_size": 2}))
    assert small[0] == large[0]
    assert small[1] < large[1]
    assert all(bool((weight == before[name]).all()) for name, weight in built.model.state_dict().items())
    assert all(weight.grad is None for weight in built.model.parameters())


def test_the_largest_batch_has_the_longest_row(trainer: Callable[..., Any]) -> None:
    from stages.train.memory import largest_batch

    built = trainer({"train.machine.device_batch_size": 1})
    longest = max(built.sampler.lengths)
    assert [built.sampler.lengths[place] for place in largest_batch(built.sampler, built.args)] == [longest]
    built.args.train_sampling_strategy = "random"
    assert [built.sampler.lengths[place] for place in largest_batch(built.sampler, built.args)] == [longest]


def test_what_cannot_be_computed_is_no_reason_to_end_a_training(
    trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.common import device
    from stages.train.plan import describe_memory

    built = trainer({})
    monkeypatch.setattr(
        type(built.model), "forward", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no such kernel\nmore"))
    )
    assert describe_memory(built, device.choose()) == "unknown (RuntimeError: no such kernel)"
