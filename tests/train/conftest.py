"""Ways to train: the whole stage, a stage that must fail, and the trainer alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training import write_tokens

from stages.common import device
from stages.common.params import load_params
from stages.common.tokens import TokenRow
from stages.train import __main__ as stage
from stages.train.params import TrainParams

ROWS = [
    TokenRow([5, 6, 7, 8, 9, 10, 11, 12], [0, 0, 1, 1, 1, 1, 1, 1]),
    TokenRow([20, 21, 22, 23, 24], [0, 0, 0, 1, 1]),
    TokenRow([30, 31, 32], [0, 1, 1]),
]


@pytest.fixture
def arguments(prepared: Path, base: Path) -> tuple[str | Path, ...]:
    """The command's options for the base model and rows of the session."""
    return ("--base", base, "--train", prepared / "train.arrow", "--val", prepared / "val.arrow")


@pytest.fixture
def train(
    params: Callable[..., Path], succeed: Callable[..., str], arguments: tuple[str | Path, ...]
) -> Callable[..., Path]:
    """Train in tmp_path with changed params, and return the folder."""

    def train(changes: dict[str, Any]) -> Path:
        folder = params(changes).parent
        succeed(stage.main, *arguments)
        return folder

    return train


@pytest.fixture
def refuse(
    params: Callable[..., Path], fail: Callable[..., str], arguments: tuple[str | Path, ...]
) -> Callable[..., str]:
    """Train with params that cannot work, and return the message; no output may be left."""

    def refuse(changes: dict[str, Any]) -> str:
        folder = params(changes).parent
        message = fail(stage.main, *arguments)
        written = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        assert not [path for path in written if path.parts[0] not in ("params.yaml", ".scratch", "data", "metrics")]
        assert not (folder / "metrics" / "train.json").exists()
        return message

    return refuse


@pytest.fixture
def trainer(params: Callable[..., Path], base: Path, tmp_path: Path) -> Callable[..., Any]:
    """Build the stage's trainer with changed params, on the rows of a token file, or on ROWS."""

    def trainer(changes: dict[str, Any], file: Path | None = None) -> Any:
        from stages.train.configs import make_configs
        from stages.train.model import load_model
        from stages.train.trainer import make_trainer

        file = file or write_tokens(tmp_path / "rows.arrow", ROWS)
        path, hardware = params(changes), device.choose()
        config = load_params(path, "train", TrainParams)
        lora, arguments = make_configs(path, config, hardware)
        model = load_model(path, base, config, hardware, None)
        return make_trainer(path, config, model, base, (file, file), lora, arguments, tmp_path / "scratch")

    return trainer
