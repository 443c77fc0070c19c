"""AMX: the processor's tile registers (Intel Xeon since Sapphire Rapids), allowed or not in every process of vLLM.

A process that uses them without asking the kernel gets SIGILL, and vLLM 0.32's kernel for 4-bit weights does not ask:
its server died at the first request. Where oneDNN may not use them, as docker/run sets it, PyTorch's matrix product
refuses them, and vLLM must not choose them either.
"""


def allow() -> None:
    """Decide once. vLLM calls this at the start of each process, as a general plugin."""
    import os

    import torch

    isa = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if "AMX" not in isa and isa not in ("ALL", "DEFAULT"):
        torch.cpu._is_amx_tile_supported = lambda: False
    elif torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()
