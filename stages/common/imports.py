"""Imports: libraries brought in without a search for garbage, which they leave none of: a seventh of the time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def swift() -> Iterator[None]:
    """Import in this block; what came in is never searched again, which also spares later searches."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
