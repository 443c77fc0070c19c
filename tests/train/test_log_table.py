"""Log table: a line for each log entry, whose columns fit in a narrow terminal."""

from types import SimpleNamespace
from typing import Any

import pytest

from stages.train.log_table import LogTable, duration


def show(entries: list[tuple[int, dict[str, Any]]], capsys: pytest.CaptureFixture[str], first: bool = True) -> str:
    table = LogTable()
    state = SimpleNamespace(is_world_process_zero=first, global_step=0, max_steps=1000)
    table.on_train_begin(None, state, None)
    for step, logs in entries:
        state.global_step = step
        table.on_log(None, state, None, logs=logs)
    table.on_train_end(None, state, None)
    return capsys.readouterr().out


def test_losses_rate_and_speed_are_in_their_columns(capsys: pytest.CaptureFixture[str]) -> None:
    train = {"loss": 4.5916473, "learning_rate": 0.0011176, "tokens_per_second": 12690.4, "grad_norm": 3.9}
    lines = show([(20, train), (20, {"eval_loss": 0.808}), (1000, {"train_runtime": 9.0})], capsys).splitlines()
    assert lines[0].split() == ["step", "loss", "eval", "loss", "lr", "tokens/s", "left"]
    assert lines[1].split()[:5] == ["20", "4.5916", "-", "1.12e-03", "12,690"]
    assert lines[2].split()[:5] == ["20", "-", "0.8080", "-", "-"]
    assert len(lines) == 3
    assert {len(line) for line in lines} == {58}


def test_the_first_process_alone_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert show([(20, {"loss": 1.0})], capsys, first=False) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (0.4, "0 s"), (59.6, "1 min 00 s"), (754, "12 min 34 s"), (5400, "1 h 30 min"),
        (40 * 3600, "40 h 00 min"), (30 * 86400 + 7200, "30 d 02 h"),
    ],
)  # fmt: skip
def test_the_time_left_has_two_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
    assert len(text) < 12
