"""The secrets and ports in .env."""

import shutil
import stat
from pathlib import Path

import pytest
from stage_runs import ROOT

from tools.common.serve_secrets import PATH, SECRETS, load_secrets


def test_secrets_are_made_once_and_only_the_owner_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "docker", "docker")
    first = load_secrets()
    assert stat.S_IMODE(PATH.stat().st_mode) == 0o600
    assert all(len(first[name]) >= 32 for name in SECRETS if name != "ADMIN_EMAIL")
    assert len({first[name] for name in SECRETS}) == len(SECRETS)
    PATH.chmod(0o644)
    monkeypatch.setenv("API_KEY", "another program's")
    monkeypatch.setenv("API_PORT", "8123")
    assert load_secrets() == first | {"API_PORT": "8123"}
    assert stat.S_IMODE(PATH.stat().st_mode) == 0o600
