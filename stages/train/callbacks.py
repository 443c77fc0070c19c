"""Callbacks of the trainer: curves, stopping on a signal, the best weights, how far the training is."""

import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
import dvclive
from tqdm import tqdm
from transformers import TrainerCallback

CURVES = ("loss", "eval_loss", "learning_rate", "grad_norm", "num_input_tokens_seen")
BEST = "best"  # folder of the best weights, beside the checkpoints
SLOW_SECONDS = 5  # a first step that takes longer is printed


class Curves(TrainerCallback):
    """Write the trainer's log as dvclive curves over `global_step`, after a resume again from the first step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.live = dvclive.Live(dir=str(self.folder), dvcyaml=None, save_dvc_exp=False)
        except OSError as error:
            message = f"{self.folder}: cannot be written ({error.strerror}); check the folder's owner and free space"
            raise click.ClickException(message) from None
        for logs in state.log_history:
            self.draw(logs["step"], logs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.draw(state.global_step, logs)

    def draw(self, step: int, logs: dict[str, Any]) -> None:
        """Add a point to each curve that is in the log line."""
        self.live.step = step
        for name in CURVES:
            if name in logs:
                self.live.log_metric(name, logs[name])
        self.live.make_summary()


class Stop(TrainerCallback):
    """End the training after the current step, with a checkpoint, at the first signal; at once at the second."""

    def __init__(self) -> None:
        self.received = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM inside this block."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.receive) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        name = signal.Signals(number).name
        tqdm.write(f"{name}: stopping after this step; press again to stop now", file=sys.stderr)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.received:
            control.should_save = control.should_training_stop = True


class Best(TrainerCallback):
    """Keep the weights with the lowest eval loss, and stop if it does not fall for `patience` evaluations.

    It decides from the trainer's log, which is in every checkpoint, so a resumed run decides the same.
    """

    def __init__(self, folder: Path, save: Callable[[str], None], patience: int | None) -> None:
        self.folder, self.save, self.patience = folder, save, patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        losses = [logs["eval_loss"] for logs in state.log_history if "eval_loss" in logs]
        best = losses.index(min(losses))
        if best == len(losses) - 1 and state.is_world_process_zero:
            building = self.folder.with_name(f"{self.folder.name}.building")
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            self.save(str(building))
            shutil.rmtree(self.folder, ignore_errors=True)
            building.rename(self.folder)
        if self.patience is not None and len(losses) - 1 - best >= self.patience:
            control.should_training_stop = True


class Progress(TrainerCallback):
    """Say how far the training is: on the terminal, and in progress.json of the log folder for `make stop`."""

    def __init__(self) -> None:
        folder = os.environ.get("LOG_FOLDER")
        self.file = Path(folder) / "progress.json" if folder else None
        if self.file:
            self.file.unlink(missing_ok=True)  # of an earlier run of the same name
        self.seconds: list[float] = []  # of each step so far
        self.doing = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first = self.saved = state.global_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.monotonic()
        self.write(state, "step")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.monotonic() - self.start)
        self.write(state, "step")
        if not state.is_world_process_zero:
            return
        steps = state.global_step - self.first
        if steps == 1 and self.seconds[0] > SLOW_SECONDS:
            left = math.ceil((state.max_steps - state.global_step) * self.seconds[0] / 60)
            tqdm.write(f"the first step took {self.seconds[0]:.0f} s; at most about {left} min left")

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.doing != "evaluation":
            self.write(state, "evaluation")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = state.global_step
        self.write(state, "step")

    def write(self, state: Any, doing: str) -> None:
        """Replace progress.json. It is read while this process is killed, so it is there or not, never in part."""
        self.doing = doing
        if self.file is None or not state.is_world_process_zero:
            return
        known = sorted(self.seconds[1:] or self.seconds)
        facts = {
            "doing": doing,
            "done": state.global_step,
            "saved": self.saved,
            "steps": state.max_steps,
            "seconds_per_step": known[len(known) // 2] if known else None,
            "since": time.time(),
        }
        building = self.file.with_suffix(".new")
        try:
            building.write_text(json.dumps(facts), encoding="utf-8")
            building.replace(self.file)
        except OSError:  # a full disk; the training goes on, and its checkpoints tell of it
            return
