"""Callbacks: curves over optimizer steps, the best weights, early stopping, and the first signal."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training import curve, scores, weights


def test_the_curves_count_optimizer_steps(adapter: Path, workspace: Path) -> None:
    steps = scores(workspace)["steps"]
    logged = list(range(2, steps + 1, 2))
    assert [list(curve(workspace, name)) for name in ("loss", "learning_rate", "grad_norm")] == [logged] * 3
    assert list(curve(workspace, "eval_loss")) == [steps]
    assert curve(workspace, "eval_loss")[steps] == pytest.approx(scores(workspace)["eval_loss"], abs=1e-6)
    assert {path.name for path in (workspace / "metrics" / "train").iterdir()} == {"metrics.json", "plots"}


def test_the_second_signal_stops_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    from stages.train.callbacks import Stop

    stop, control = Stop(), SimpleNamespace(should_save=False, should_training_stop=False)
    with stop.listening():
        stop.on_step_end(None, None, control)
        assert not control.should_training_stop
        signal.raise_signal(signal.SIGTERM)
        assert capsys.readouterr().err == "SIGTERM: stopping after this step; press again to stop now\n"
        stop.on_step_end(None, None, control)
        assert control.should_save and control.should_training_stop
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.received == signal.SIGTERM


@pytest.fixture
def worse(train: Callable[..., Path]) -> Callable[..., Path]:
    """Train so that the loss on val falls, then rises: the learning rate is too high after the warm-up."""

    def worse(changes: dict[str, Any]) -> Path:
        rates: dict[str, Any] = {
            "learning_rate": 2.0,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 20,
            "num_train_epochs": 8,
        }
        return train({f"train.sft.{key}": value for key, value in rates.items()} | changes)

    return worse


@pytest.mark.slow
def test_the_best_weights_are_kept(worse: Callable[..., Path]) -> None:
    folder = worse({"train.keep": "best"})
    losses = curve(folder, "eval_loss")
    best = min(losses, key=lambda step: losses[step])
    assert best < list(losses)[-1]
    assert scores(folder)["eval_loss"] == pytest.approx(losses[best], abs=1e-6)
    kept = weights(folder / "models" / "adapter")
    last = weights(worse({}) / "models" / "adapter")
    assert any(not kept[name].equal(last[name]) for name in kept)
    stopped = worse({"train.sft.max_steps": best, "train.sft.eval_strategy": "no"})
    assert all(part.equal(kept[name]) for name, part in weights(stopped / "models" / "adapter").items())


@pytest.mark.slow
def test_it_stops_early_when_the_loss_on_val_no_longer_falls(worse: Callable[..., Path]) -> None:
    losses = curve(worse({"train.early_stopping": 1}), "eval_loss")
    steps = list(losses)
    assert len(steps) < 8
    assert losses[steps[-1]] >= losses[steps[-2]] == min(losses.values())
