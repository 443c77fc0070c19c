"""Agreement: how alike two models predict, with one of them in memory at a time."""

import ctypes
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from stages.common import batches, tokens

if TYPE_CHECKING:
    import torch

ROUND = 4 * 2**30  # bytes of log-probabilities that wait on disk; each round loads both models


def compare(
    reference: Callable[[], Any],
    merged: Callable[[], Any],
    rows: list[tokens.TokenRow],
    batch_size: int,
    folder: Path,
    most: int = ROUND,
) -> dict[str, float]:
    """Compare next-token distributions wherever an answer's token is predicted.

    Args:
        reference: loads the model to compare with.
        merged: loads the other.
        rows: prepared rows.
        batch_size: rows at once.
        folder: where the reference's log-probabilities wait, in a file without a name that no crash can leave behind.
        most: bytes of them, and at least one batch.

    Returns:
        `kl_mean` and `kl_max`, KL(reference || merged) in nats per token, `top1_agreement` and `tokens`.
    """
    import torch

    waiting = deque(batches.padded(rows, batch_size))
    found: list[tuple[torch.Tensor, int]] = []
    with torch.inference_mode():
        while waiting:
            with tempfile.TemporaryFile(dir=folder) as file:
                done = predict(reference(), waiting, file, most)
                give_back()
                file.seek(0)
                found += measure(merged(), done, file)
                give_back()
    kl = torch.cat([divergence for divergence, _ in found])
    return {
        "kl_mean": float(f"{kl.mean().clamp(min=0).item():.6g}"),
        "kl_max": float(f"{kl.max().item():.6g}"),
        "top1_agreement": round(sum(agreed for _, agreed in found) / len(kl), 6),
        "tokens": len(kl),
    }


def predict(model: Any, waiting: "deque[batches.Batch]", file: IO[bytes], most: int) -> list[batches.Batch]:
    """Write the log-probabilities of batches that are taken from `waiting`, until there are `most` bytes."""
    done = []
    while waiting and file.tell() < most:
        batch = waiting.popleft()
        file.write(batches.answer_logits(model, batch).log_softmax(-1).cpu().numpy())
        done.append(batch)
    return done


def measure(model: Any, done: list[batches.Batch], file: IO[bytes]) -> "list[tuple[torch.Tensor, int]]":
    """Give for each batch the divergences from the log-probabilities in `file`, and how many best tokens agree."""
    import torch

    found = []
    for batch in done:
        actual = batches.answer_logits(model, batch).log_softmax(-1)
        values = torch.from_numpy(np.fromfile(file, np.float32, actual.numel()))
        expected = values.view(actual.shape).to(actual.device)
        divergence = (expected.exp() * (expected - actual)).sum(-1)
        found.append((divergence, int((expected.argmax(-1) == actual.argmax(-1)).sum())))
    return found


def give_back() -> None:
    """Return what a model left free to the system; docker/run has the C library keep it, to be faster in between."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim:
        trim(0)
