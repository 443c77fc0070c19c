"""Machine: the memory that the stages may use, of this machine or of its container, and of its GPU."""

import os
from pathlib import Path
from typing import NamedTuple

from stages.common.device import Device

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class Machine(NamedTuple):
    """Bytes of memory, of those in use by nobody, and of a GPU (0: there is none); cores, and how busy they are."""

    memory: int
    available: int
    gpu: int
    cores: int
    load: float


def read_machine(device: Device) -> Machine:
    """Read the limits of this machine."""
    size = os.sysconf("SC_PAGE_SIZE")
    memory = size * os.sysconf("SC_PHYS_PAGES")
    for file in LIMITS:  # a container's
        text = file.read_text(encoding="ascii").strip() if file.exists() else "max"
        memory = min(memory, int(text)) if text.isdigit() else memory
    info = Path("/proc/meminfo")
    lines = info.read_text(encoding="ascii").splitlines() if info.exists() else []
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), memory)
    gpu = 0
    if device.name == "cuda":
        import torch

        gpu = torch.cuda.get_device_properties(0).total_memory
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(memory, min(memory, free), gpu, cores, os.getloadavg()[0])
