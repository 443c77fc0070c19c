"""What the plan is made from, on the model and rows of the session."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.common import device
from tools.plan import needs
from tools.plan.fit import Training
from tools.plan.rows import count_prepared
from tools.plan.stale import CACHED, Action
from tools.preflight import load_sections

DONE = Action(CACHED, "nothing changed", False)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], tuple[Any, ...]]:
    """Describe a folder in which base and preprocess have run: model, lengths, training, sections."""

    def planned(folder: Path) -> tuple[needs.Model, Any, Training, dict[str, Any]]:
        monkeypatch.chdir(folder)
        (folder / "data" / "templates").mkdir(exist_ok=True)
        params, hardware = Path("params.yaml"), device.choose()
        sections: dict[str, Any] = load_sections(params)
        model = needs.find_model(params, sections, DONE, hardware)
        lengths = count_prepared(Path("data/prepared"))
        return model, lengths, needs.make_training(params, model, lengths, sections, hardware), sections

    return planned
