"""Machine: memory, disk, processor, GPU, and the container engine where it is used."""

import json
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

from tools.doctor.environment import venv
from tools.doctor.finding import FIX, OK, WARN, Finding

FREE_MEMORY = 2e9  # bytes; each stage of the built-in model takes one
FREE_DISK = 5e9  # bytes; less than most models
LEAST_DISK = 1e9
COPIES = 1.6  # of the base model, that a run still writes: adapter and checkpoints, merged, awq
GIB = 2**30


def check_memory() -> Finding:
    """Look at what memory is free."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return Finding(OK, "this system does not say how much memory is free")
    lines = dict(line.split(":") for line in info.read_text(encoding="ascii").splitlines())
    total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB are free"
    if free < FREE_MEMORY:
        return Finding(WARN, f"{text}: a stage of the built-in model takes 1", "ps aux --sort=-rss | head")
    return Finding(OK, f"{text}; `make plan` compares it with what stages need")


def check_disk() -> Finding:
    """Look at what is free on the disk, against what a run with this base model still writes."""
    free = shutil.disk_usage(".").free
    base = sum(file.stat().st_size for file in Path("models/base").glob("*.safetensors"))
    text = f"{free / GIB:.1f} GiB are free"
    if free < max(LEAST_DISK, COPIES * base):
        return Finding(FIX, f"{text}; a run writes {max(LEAST_DISK, COPIES * base) / GIB:.1f}", "dvc gc --workspace")
    if free < FREE_DISK:
        return Finding(WARN, f"{text}: too little for most models", "dvc gc --workspace")
    return Finding(OK, f"{text}; `make plan` compares it with what a run writes")


def check_processor() -> Finding:
    """Look for what gives the same bytes on every machine: AVX2, and two cores for two threads."""
    variables = runpy.run_path("docker/stage_variables.py")["DETERMINISM"]
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = int(variables["OMP_NUM_THREADS"])
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    if not flags or "avx2" not in flags[1].split():
        return Finding(WARN, "no AVX2: a run here gives other bytes than dvc.lock has", "see docs/determinism.md")
    if cores < threads:
        text = f"{cores} core for the {threads} threads of a stage: the same bytes, in more time"
        return Finding(WARN, text, "nproc; a container or a cgroup may limit it")
    own = [name for name, value in variables.items() if os.environ.get(name, value) != value]
    also = f"; {', '.join(own)} of your environment: docker/run sets its own" if own else ""
    return Finding(OK, f"AVX2, {cores} cores, {threads} threads for a stage{also}")


def check_allocator() -> Finding:
    """Look for the memory allocator that stages run with where it is installed."""
    names = runpy.run_path("docker/stage_variables.py")["ALLOCATORS"]
    if any(Path(name).exists() for name in names):
        return Finding(OK, "tcmalloc is installed")
    return Finding(WARN, "no tcmalloc: train takes up to half more memory", "apt install libtcmalloc-minimal4")


def check_gpu() -> Finding:
    """Compare the GPU's driver with the CUDA version that torch is built for."""
    if not runpy.run_path("docker/runtime.py")["has_gpu"]():
        return Finding(OK, "no NVIDIA GPU; stages compute on the CPU")
    asked = "--query-gpu=name,driver_version,memory.total"
    found = output("nvidia-smi", asked, "--format=csv,noheader")
    if not found:
        return Finding(FIX, "an NVIDIA driver is loaded, but nvidia-smi gives no answer", "nvidia-smi")
    gpus = "; ".join(found.splitlines())
    files = sorted(venv().glob("lib/python3*/site-packages/torch/version.py"))
    built = re.search(r"^cuda.*= '([\d.]+)'", files[0].read_text(encoding="utf-8"), re.MULTILINE) if files else None
    if not built:
        text = f"{gpus}; torch in {venv()} is built for the CPU alone"
        return Finding(
            FIX, text, f"env -u UV_FIND_LINKS {venv()}/bin/uv pip install --python {venv()} --reinstall torch"
        )
    supported = re.search(r"CUDA Version: ([\d.]+)", output("nvidia-smi"))
    if supported and float(supported[1]) < int(built[1].split(".")[0]):
        text = f"{gpus}; the driver supports CUDA {supported[1]}, and torch is built for {built[1]}"
        return Finding(FIX, text, "install a newer driver: https://www.nvidia.com/drivers")
    return Finding(OK, f"{gpus}; torch for CUDA {built[1]}")


def check_containers() -> Finding:
    """Look at the container engine, where stages or the server run in containers."""
    where, reason = runpy.run_path("docker/runtime.py")["choose"]()
    if where == "local":
        return Finding(OK, f"not used: {reason}")
    if not shutil.which("docker"):
        return Finding(
            FIX, f"{reason}; there is no `docker`", "RUNTIME=local, or https://docs.docker.com/engine/install"
        )
    if not output("docker", "version", "--format", "{{.Server.Version}}"):
        return Finding(FIX, f"{reason}; the engine does not answer this user", "docker version")
    if not output("docker", "compose", "version"):
        text = f"{reason}; `docker compose` is missing, which `make serve` needs"
        return Finding(WARN, text, "https://docs.docker.com/compose/install")
    runtimes = output("docker", "info", "--format", "{{json .Runtimes}}") or "{}"
    has_gpu = runpy.run_path("docker/runtime.py")["has_gpu"]()
    if has_gpu and "nvidia" not in json.loads(runtimes) and not cdi_devices():
        text = f"{reason}; containers do not get the GPU"
        return Finding(
            FIX, text, "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
        )
    return Finding(OK, f"used: {reason}")


def cdi_devices() -> bool:
    """Whether the engine knows the GPU as a CDI device, which needs no runtime of its own."""
    return any(file for folder in ("/etc/cdi", "/var/run/cdi") for file in Path(folder).glob("*nvidia*"))


def output(*command: str) -> str:
    """Run a command and return its output; empty where it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if not done.returncode else ""
