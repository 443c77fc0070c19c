"""Fit: the largest batch, and the settings with which a training fits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stage_runs import write_params

from tools.plan.fit import largest_size, packed_lengths, taken, training_changes


def test_the_largest_batch_fits_and_the_next_one_does_not(
    workspace: Path, prepared: Path, planned: Callable[[Path], Any]
) -> None:
    training = planned(workspace)[2]
    needs = {size: taken(training.need(size)) for size in (1, 2, 4, 8)}
    assert needs[1] < needs[2] < needs[4] < needs[8]
    for size, next_size in ((1, 2), (2, 4), (4, 8)):
        limit = (needs[size] + needs[next_size]) / 2
        assert largest_size(training.need, 8, limit) == size
    assert largest_size(training.need, 8, needs[8]) == 8
    assert largest_size(training.need, 8, needs[1] - 1) == 0


def test_the_cheapest_setting_that_helps_is_named(
    workspace: Path, prepared: Path, planned: Callable[[Path], Any]
) -> None:
    training = planned(workspace)[2]
    plain, less = (taken(training.need(1, checkpointing=one)) for one in (False, True))
    assert less < plain
    words, need = next(training_changes(training, 8, plain))
    assert words == "train.machine.device_batch_size: 1"
    assert taken(need) <= plain
    words, need = next(training_changes(training, 8, (plain + less) / 2))
    assert words.endswith(", train.sft.gradient_checkpointing: true")
    assert taken(need) <= (plain + less) / 2
    assert not list(training_changes(training, 8, less / 2))


def test_full_fine_tuning_that_does_not_fit_may_be_lora(
    tmp_path: Path, workspace: Path, prepared: Path, planned: Callable[[Path], Any]
) -> None:
    write_params(tmp_path, {"train.method": "full"})
    for name in ("data", "models"):
        (tmp_path / name).symlink_to(workspace / name)
    training = planned(tmp_path)[2]
    limit = min(taken(training.need(1, checkpointing=one)) for one in (False, True)) - 1
    words, _ = next(training_changes(training, 8, limit))
    assert words.endswith("train.method: lora")


@pytest.mark.parametrize(("lengths", "expected"), [([5, 5, 5], [8, 8]), ([8], [8]), ([], [8])])
def test_packed_rows_are_full(lengths: list[int], expected: list[int]) -> None:
    assert packed_lengths(lengths, 8) == expected
