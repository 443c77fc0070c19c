"""Device: where a stage computes and in which dtype, decided once and said aloud."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Device(NamedTuple):
    """A torch device, the dtype to compute in, and the reason for both."""

    name: str
    dtype: "torch.dtype"
    reason: str


def choose() -> Device:
    """Take the GPU in bfloat16 when there is one, else the CPU in float32.

    Raises:
        RuntimeError: a GPU without bfloat16; float16 would overflow silently in training, so it is never used.
    """
    import torch

    if not torch.cuda.is_available():
        return Device("cpu", torch.float32, "no GPU visible; float32, as bfloat16 is slow and inexact on a CPU")
    name = torch.cuda.get_device_name(0)
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RuntimeError(f"{name} has no bfloat16; hide it with CUDA_VISIBLE_DEVICES= to compute on the CPU")
    return Device("cuda", torch.bfloat16, f"{name}; bfloat16, as float16 overflows in training")
