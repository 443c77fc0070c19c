"""Reports: where a training's curves go besides the files: TensorBoard, Weights & Biases, MLflow."""

import importlib.util
import os
from pathlib import Path

import click

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny sqlalchemy alembic"}


def prepare(params: Path, names: list[str]) -> None:
    """Keep what the libraries write in the run's logs, and on this machine, unless the environment says otherwise.

    Args:
        params: the params file, for messages.
        names: train.machine.report_to.

    Raises:
        click.ClickException: a library that is not installed.
    """
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder of that name is no library
            raise click.ClickException(
                f"{params}: train.machine.report_to: {name} is not installed; run "
                f"`.venv/bin/uv pip install --python .venv -c requirements/pipeline.txt {PACKAGES[name]}`"
            )
    logs = Path(os.environ.get("LOG_FOLDER", ".scratch")).absolute()
    places = {
        "TENSORBOARD_LOGGING_DIR": f"{logs}/tensorboard",
        "WANDB_DIR": str(logs),
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": "lockstep",
        "MLFLOW_TRACKING_URI": f"sqlite:///{logs}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": "lockstep",
    }
    for key, value in places.items():
        os.environ.setdefault(key, value)
