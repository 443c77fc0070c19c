"""The container to develop in: what it runs and forwards exists in this repository."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONTAINER: dict[str, Any] = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))


def test_it_installs_as_users_do() -> None:
    target = CONTAINER["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"^{target}:.* ## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_its_python_is_one_that_the_project_runs_on() -> None:
    version = CONTAINER["image"].rpartition(":")[2]
    asked = re.search(r'requires-python = ">=(\S+),<(\S+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert asked
    low, found, high = (tuple(map(int, text.split("."))) for text in (asked[1], version, asked[2]))
    assert low <= found < high


def test_it_forwards_the_ports_that_things_listen_on() -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "README.md")]
    for port in CONTAINER["forwardPorts"]:
        assert any(f"127.0.0.1:{port}" in text for text in texts), port
    assert set(CONTAINER["portsAttributes"]) == set(map(str, CONTAINER["forwardPorts"]))
