"""Device: the torch device and dtype that a stage computes with, chosen in one place and printed by the stage."""

from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    import torch


class Device(NamedTuple):
    """A torch device, the dtype to compute in, and the reason for both."""

    name: str
    dtype: "torch.dtype"
    reason: str


def choose() -> Device:
    """Choose the GPU with bfloat16 if torch sees one, else the CPU with float32.

    Raises:
        click.ClickException: the GPU has no bfloat16. float16 is never used: it can overflow in training without
            an error.
    """
    import torch

    if not torch.cuda.is_available():
        return Device("cpu", torch.float32, "no GPU visible; float32, as bfloat16 is slow and inexact on a CPU")
    name = torch.cuda.get_device_name(0)
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise click.ClickException(
            f"{name} has no bfloat16; hide it with CUDA_VISIBLE_DEVICES= to compute on the CPU"
        )
    return Device("cuda", torch.bfloat16, f"{name}; bfloat16, as float16 overflows in training")
