"""Runtime: facts about this machine before any environment exists: whether it has a GPU, and where stages run.

`docker/runtime.py` prints local or docker, `docker/runtime.py gpu` prints yes or no.
"""

import os
import subprocess
import sys
from pathlib import Path


def choose() -> tuple[str, str]:
    """Return local or docker, and the reason. Containers are for GPUs, whose bytes depend on more than the lock."""
    asked = os.environ.get("RUNTIME", "")
    if asked in ("local", "docker"):
        return asked, "RUNTIME in the environment"
    if asked:
        sys.exit(f"docker/run: RUNTIME={asked}: must be local or docker")
    if not has_gpu():
        return "local", "no NVIDIA GPU here; RUNTIME=docker asks for containers"
    if not engine_answers():
        return "local", "an NVIDIA GPU, but no container engine answers"
    return "docker", "an NVIDIA GPU and a container engine; RUNTIME=local runs without containers"


def has_gpu() -> bool:
    """Whether an NVIDIA driver is loaded. The second path is its device in the Windows Subsystem for Linux."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


def engine_answers() -> bool:
    """Whether a container engine runs that this user may use."""
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


if __name__ == "__main__":
    if sys.argv[1:] == ["gpu"]:
        print("yes" if has_gpu() else "no")
    else:
        print(choose()[0])
