"""AMX: ask the kernel for the processor's tile registers, in every process of vLLM.

A process that uses them without asking gets SIGILL, and vLLM 0.32's kernel for 4-bit weights does not ask: its server
died at the first request on processors with AMX (Intel Xeon since Sapphire Rapids).
"""


def allow() -> None:
    """Ask, where this processor has them. vLLM calls this at the start of each process, as a general plugin."""
    import torch

    if torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()
