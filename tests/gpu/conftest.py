"""What needs an NVIDIA GPU; elsewhere it is skipped, with the reason."""

import pytest

from stages.common import device


@pytest.fixture(autouse=True, scope="session")
def gpu() -> device.Device:
    """Give the GPU, or skip."""
    place = device.choose()
    if place.name != "cuda":
        pytest.skip(f"needs an NVIDIA GPU: {place.reason}")
    return place
