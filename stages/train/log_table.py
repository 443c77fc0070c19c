"""Log table: one line on the terminal for each entry of the trainer's log, and bars of training and evaluation."""

import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from stages.common.progress import track

# Title and width of each column; together they fit in 60 characters.
COLUMNS = (("step", 7), ("loss", 9), ("eval loss", 10), ("lr", 10), ("tokens/s", 10), ("left", 12))


class LogTable(TrainerCallback):
    """Print step, losses, learning rate, speed and time left, as a table that grows."""

    def __init__(self) -> None:
        self.shown = False  # until a training begins: an evaluation alone prints nothing
        self.evaluation: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.shown = state.is_world_process_zero
        self.first, self.start = state.global_step, time.monotonic()
        options = {} if self.shown else {"disable": True}
        self.training = track(None, "train", "step", state.max_steps, initial=self.first, **options)
        if self.shown:
            tqdm.write(aligned([title for title, _ in COLUMNS]))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training.update()

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if self.shown and self.evaluation is None:
            self.evaluation = track(None, "evaluation", "batch", len(eval_dataloader), leave=False)
        if self.evaluation is not None:
            self.evaluation.update()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.evaluation is not None:
            self.evaluation.close()
        self.evaluation = None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not self.shown or not {"loss", "eval_loss"} & logs.keys():  # the last entry is a summary
            return
        done, left = state.global_step - self.first, state.max_steps - state.global_step
        seconds = (time.monotonic() - self.start) / done * left if done else None
        tqdm.write(aligned([str(state.global_step), *figures(logs), duration(seconds)]))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training.close()


def figures(logs: dict[str, Any]) -> list[str]:
    """Return the texts of loss, eval loss, learning rate and tokens per second; a dash for those not logged."""
    formats = {"loss": ".4f", "eval_loss": ".4f", "learning_rate": ".2e", "tokens_per_second": ",.0f"}
    return [format(float(logs[key]), kind) if key in logs else "-" for key, kind in formats.items()]


def duration(seconds: float | None) -> str:
    """Format seconds with the two largest units."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24:02} h"


def aligned(texts: list[str]) -> str:
    """Put texts under each other, on the right of their columns."""
    return "".join(text.rjust(width) for text, (_, width) in zip(texts, COLUMNS, strict=True))
