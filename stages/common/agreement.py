"""Agreement: how close the next-token distributions of models are, with one of them in memory at a time.

merge and awq compare their model with what was trained, base + adapter, and tell how much of the fine-tuning is kept.
"""

import ctypes
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from stages.common.batches import Batch, answer_logits, padded
from stages.common.device import Device
from stages.common.progress import track
from stages.common.tokens import TokenRow

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ROUND = 4 * 2**30  # bytes of log-probabilities kept on disk; each round loads both models


def load(folder: Path, device: Device, adapter: Path | None = None) -> "PreTrainedModel":
    """Load a model for inference; an `adapter` is applied at run time."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=device.dtype)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    return model.to(device.name).eval()


def load_trained(base: Path, adapter: Path, device: Device) -> "PreTrainedModel":
    """Load what was trained: the base model with its adapter, or the model of a full fine-tuning."""
    return load(adapter, device) if is_full(adapter) else load(base, device, adapter)


def is_full(adapter: Path) -> bool:
    """Whether the folder holds a model, as `train.method: full` leaves it, not an adapter."""
    return (adapter / "config.json").exists()


def kept(divergence: float, base_divergence: float) -> float | None:
    """Compute the share of the fine-tuning that a model keeps: 1 if it is what was trained, 0 if no nearer than base.

    Args:
        divergence: KL(trained || model), nats per token.
        base_divergence: KL(trained || base), on the same rows.

    Returns:
        1 - divergence / base_divergence, below 0 for a model that is further away than base; None where the training
        changed nothing.
    """
    return round(1 - divergence / base_divergence, 6) if base_divergence else None


def compare(
    reference: Callable[[], Any],
    others: dict[str, Callable[[], Any]],
    rows: list[TokenRow],
    batch_size: int,
    folder: Path,
    most: int = ROUND,
) -> dict[str, dict[str, float]]:
    """Compare next-token distributions at every position that predicts an assistant token.

    Args:
        reference: loads the model to compare with.
        others: loads each of the other models, by its name.
        rows: prepared rows.
        batch_size: rows per batch.
        folder: keeps the reference's log-probabilities, in a file without a name, which no crash leaves behind.
        most: bytes of log-probabilities in a round; a round has at least one batch.

    Returns:
        Of each other model `kl_mean` and `kl_max`, KL(reference || model) in nats per token, `top1_agreement` and
        `tokens`.
    """
    import torch

    waiting = deque(padded(rows, batch_size))
    found: dict[str, list[tuple[torch.Tensor, int]]] = {name: [] for name in others}
    with torch.inference_mode():
        while waiting:
            with tempfile.TemporaryFile(dir=folder) as file:
                done = predict(reference(), waiting, file, most)
                free_memory()
                for name, other in others.items():
                    file.seek(0)
                    found[name] += measure(other(), done, file)
                    free_memory()
    return {name: add_up(measured) for name, measured in found.items()}


def add_up(found: "list[tuple[torch.Tensor, int]]") -> dict[str, float]:
    """Add up what `measure` found in all batches."""
    import torch

    kl = torch.cat([divergence for divergence, _ in found])
    return {
        "kl_mean": float(f"{kl.mean().clamp(min=0).item():.6g}"),
        "kl_max": float(f"{kl.max().item():.6g}"),
        "top1_agreement": round(sum(agreed for _, agreed in found) / len(kl), 6),
        "tokens": len(kl),
    }


def predict(model: Any, waiting: deque[Batch], file: IO[bytes], most: int) -> list[Batch]:
    """Take batches from `waiting` and write their log-probabilities, until the file has `most` bytes."""
    done = []
    with track(None, "log-probabilities", "batch", len(waiting)) as bar:
        while waiting and file.tell() < most:
            batch = waiting.popleft()
            file.write(answer_logits(model, batch).log_softmax(-1).cpu().numpy())
            done.append(batch)
            bar.update()
    return done


def measure(model: Any, done: list[Batch], file: IO[bytes]) -> "list[tuple[torch.Tensor, int]]":
    """Compute for each batch the KL divergences from the file's log-probabilities, and count equal top-1 tokens."""
    import torch

    found = []
    for batch in track(done, "KL", "batch"):
        actual = answer_logits(model, batch).log_softmax(-1)
        values = torch.from_numpy(np.fromfile(file, np.float32, actual.numel()))
        expected = values.view(actual.shape).to(actual.device)
        divergence = (expected.exp() * (expected - actual)).sum(-1)
        found.append((divergence, int((expected.argmax(-1) == actual.argmax(-1)).sum())))
    return found


def free_memory() -> None:
    """Return a deleted model's memory to the system; under docker/run the C library keeps it for later use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim:
        trim(0)
