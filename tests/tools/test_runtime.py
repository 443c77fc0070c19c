"""`make runtime`: what stages run with, each fact with its reason."""

import json
import subprocess
import sys

import pytest
from stage_runs import ROOT

pytestmark = pytest.mark.slow  # starts a process that imports torch


def test_it_prints_every_fact_with_its_reason() -> None:
    command = [sys.executable, "-m", "tools.runtime", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    assert {"runtime", "python", "torch", "trl", "device", "dtype", "threads"} <= set(facts)
    assert all(fact["reason"] for fact in facts.values())
    assert facts["threads"]["value"] == 2
    assert facts["workspace"]["value"] == str(ROOT)
