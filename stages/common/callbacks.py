"""Callbacks: what is done at the trainer's steps: live curves, stopping when asked to, choosing the best."""

import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
import dvclive
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

if TYPE_CHECKING:
    from stages.common.trainer import Trainer

CURVES = ("loss", "eval_loss", "learning_rate", "grad_norm", "num_input_tokens_seen")
BEST = "best"  # folder of the best weights so far, beside the checkpoints
WARM = 10  # steps after which speed is said


class Curves(TrainerCallback):
    """Draw the trainer's log as dvclive curves over `global_step`, from the first line on, also after a resume."""

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
        """Add a point to each curve that the log names."""
        self.live.step = step
        for name in CURVES:
            if name in logs:
                self.live.log_metric(name, logs[name])
        self.live.make_summary()


class Resume(TrainerCallback):
    """Give a resumed run what the trainer forgets: the sampler's epoch, and the losses since the last log."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer
        self.checkpoint: Path | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.checkpoint:
            self.trainer.restore_window(self.checkpoint)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.grouped.set_epoch(math.floor((state.epoch or 0) + 1e-6))

    # What the trainer does at the end of an epoch comes after the checkpoint of its last step, and a run that goes on
    # from there would never do it: it is done at that step instead.
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.eval_strategy == IntervalStrategy.EPOCH and state.global_step % self.trainer.steps_per_epoch == 0:
            control.should_evaluate = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_evaluate = False


class Stop(TrainerCallback):
    """End after the step at hand, with a checkpoint, when a signal asks for it; at the second signal at once."""

    def __init__(self) -> None:
        self.received = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM for as long as this lasts."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.receive) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note the signal."""
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        tqdm.write(f"{signal.Signals(number).name}: stops after this step; once more stops at once", file=sys.stderr)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.received:
            control.should_save = control.should_training_stop = True


class Best(TrainerCallback):
    """Keep the weights with the lowest eval loss, and stop when it has not fallen for `patience` evaluations.

    What it needs to know stands in the trainer's log, which a checkpoint holds, so a resumed run decides alike.
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


class Pace(TrainerCallback):
    """Say after a few steps how fast it goes and how long it will take."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first = state.global_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.first + 1:  # the first step warms up
            self.start, self.tokens = time.monotonic(), int(state.num_input_tokens_seen)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step != self.first + WARM or not state.is_world_process_zero:
            return
        seconds = (time.monotonic() - self.start) / (WARM - 1)
        tokens = (int(state.num_input_tokens_seen) - self.tokens) / (WARM - 1)
        left = (state.max_steps - state.global_step) * seconds
        tqdm.write(f"{seconds:.2f} s a step, {tokens / seconds:.0f} tokens/s; about {math.ceil(left / 60)} min left")
