"""Workspace: the checkout that a command works for."""

import os
from pathlib import Path


def home() -> Path:
    """Return the checkout that DVC was started in: a temporary experiment runs in a copy, and DVC_ROOT names it."""
    return Path(os.environ.get("DVC_ROOT", "."))
