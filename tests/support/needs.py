"""Needs: programs and hardware that some tests need. Without them they skip, or fail with LOCKSTEP_REQUIRE_ALL.

Each reason ends with the command that runs the skipped tests, as `make test` prints one line per reason.
"""

import os
import runpy
from pathlib import Path
from typing import NoReturn

import pytest

from tools.common.project import PROJECT, is_default

ROOT = Path(__file__).parents[2]

# What is missing, and the command that brings it or runs the tests: the last lines of `make test`.
NEEDS = {
    "avx512": "no AVX-512, which vLLM needs for 4-bit weights on a CPU; run `make test` on a processor with it",
    "kernels": "a library for NVIDIA GPUs is missing; run `uv pip install liger-kernel flash-attn`",
    "chromium": "no Chromium; run `apt install chromium`",
    "default": "settings, rows or README are not Lockstep's own; run `make test` in a checkout of Lockstep",
    "engine": "no container engine answers; run `.ci/engine make test`",
    "gpu": "no NVIDIA GPU; run `make test ARGS=tests/gpu` on a machine with one",
    "models": "no models/awq; run `make repro`",
    "modelscope": "no modelscope-hub; run `.venv/bin/uv pip install modelscope-hub`",
    "nginx": "no nginx; run `apt install nginx-light`",
    "no gpu": "an NVIDIA GPU is here; run `make test` on a machine without one",
    "registry": "no docker-registry, which .ci/engine installs; run `.ci/engine make test`",
    "npm": "npm reaches no registry, or is missing; run `apt install npm` with a network",
    "root": "not root; run `sudo make test`",
    "site": "no environment in .serve/site; run `make .serve/site/.made`",
    "strace": "no strace; run `apt install strace`",
    "serving": "no environments in .serve; run `make .serve/vllm/.made .serve/webui/.made`",
}


def missing(need: str) -> NoReturn:
    """Skip, or fail where LOCKSTEP_REQUIRE_ALL is set, as in .ci/run."""
    own = need == "default" and (ROOT / PROJECT).exists()  # then nobody expects it
    if os.environ.get("LOCKSTEP_REQUIRE_ALL") and need not in ("avx512", "gpu", "no gpu", "kernels") and not own:
        pytest.fail(f"LOCKSTEP_REQUIRE_ALL is set, and: {NEEDS.get(need, need)}")
    pytest.skip(NEEDS.get(need, need))


def default() -> None:
    """Skip what is about the committed default where a user has settings, rows or a README of their own."""
    if not is_default(ROOT):
        missing("default")


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU, as docker/run sees it."""
    return runpy.run_path(str(ROOT / "docker" / "runtime.py"))["has_gpu"]()


def has_avx512() -> bool:
    """Whether vLLM can compute with 4-bit weights on this CPU."""
    return "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def servable() -> str:
    """Return the model that vLLM can serve on this machine: awq, or merged where the CPU has no AVX-512."""
    return "awq" if has_gpu() or has_avx512() else "merged"
