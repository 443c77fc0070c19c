"""Needs: what some tests want and not every machine has. Without it they skip, or fail where all must be there."""

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip, or fail where LOCKSTEP_REQUIRE_ALL is set, as in .ci/run."""
    if os.environ.get("LOCKSTEP_REQUIRE_ALL"):
        pytest.fail(f"LOCKSTEP_REQUIRE_ALL is set, and: {reason}")
    pytest.skip(reason)
