"""Runtime: whether stages and servers run on this machine as it is, or in containers, and why."""

import os
import subprocess
import sys
from pathlib import Path


def choose() -> tuple[str, str]:
    """Give local or docker, and the reason: containers are for GPUs, whose bytes depend on more than the lock."""
    asked = os.environ.get("RUNTIME", "")
    if asked in ("local", "docker"):
        return asked, "RUNTIME in the environment"
    if asked:
        sys.exit(f"docker/run: RUNTIME={asked}: must be local or docker")
    if not has_gpu():
        return "local", "no NVIDIA GPU here; RUNTIME=docker asks for containers"
    if not engine_answers():
        return "local", "an NVIDIA GPU, but no container engine answers"
    return "docker", "an NVIDIA GPU and a container engine; RUNTIME=local does without containers"


def has_gpu() -> bool:
    """Whether an NVIDIA driver is loaded; below Windows it is another device."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


def engine_answers() -> bool:
    """Whether there is a container engine that we may use."""
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


if __name__ == "__main__":
    print(choose()[0])
