"""Environment: the versions in .venv, and in those of serving, against their locks."""

import os
import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

from tools.doctor.finding import FIX, OK, WARN, Finding

LOWEST, HIGHEST = (3, 11), (3, 13)
PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[.*?\])?==([^\s;]+)")
SHOWN = 3
# Without these no stage runs. Others of the lock may be for another system, or for a GPU.
NEEDED = ("click", "datasets", "dvc", "llmcompressor", "lm-eval", "peft", "pydantic", "torch", "transformers", "trl")


def venv() -> Path:
    """Return the folder of the environment, as seen from this checkout where it is in it."""
    folder = Path(os.environ.get("VENV") or ".venv")
    return folder.relative_to(Path.cwd()) if folder.is_absolute() and Path.cwd() in folder.parents else folder


def check_python() -> Finding:
    """Look at the interpreter of the environment."""
    python = venv() / "bin" / "python"
    again = f"rm -rf {venv()} && make install"
    if not python.exists():
        broken = "its interpreter is gone" if python.is_symlink() else "there is none"
        return Finding(FIX, f"no environment in {venv()}: {broken}", again)
    done = subprocess.run([python, "-V"], capture_output=True, text=True, timeout=60, check=False)
    match = re.search(r"(\d+)\.(\d+)\.\d+", done.stdout)
    if done.returncode or not match:
        return Finding(FIX, f"{python} does not start", again)
    if not LOWEST <= (int(match[1]), int(match[2])) <= HIGHEST:
        text = f"Python {match[0]} in {venv()}; 3.11 to 3.13 are tested"
        return Finding(FIX, text, f"rm -rf {venv()} && make install PYTHON=python3.11")
    return Finding(OK, f"Python {match[0]} in {venv()}")


def check_libraries() -> Finding:
    """Compare what is installed with requirements/pipeline.txt."""
    installed = versions(venv())
    missing = [name for name in NEEDED if name not in installed]
    again = f"rm -f {venv()}/.pipeline {venv()}/.dev && make install"
    if missing:
        return Finding(FIX, f"not installed in {venv()}: {shortened(missing)}", again)
    return compared(installed, Path("requirements/pipeline.txt"), again)


def check_vllm() -> Finding:
    """Compare the server's environment with its lock."""
    return check_serving("vllm", Path("requirements/serve.txt"))


def check_webui() -> Finding:
    """Compare the chat page's environment with its lock."""
    return check_serving("webui", Path("requirements/webui.txt"))


def check_serving(name: str, lock: Path) -> Finding:
    """Compare an environment of serving with its lock, if there is one."""
    folder = Path(".serve") / name
    if not folder.exists():
        return Finding(OK, f"no {folder} yet; the first `make serve` makes it")
    again = f"rm -rf {folder} && make serve"
    if not (folder / ".made").exists():
        return Finding(WARN, f"{folder} is not complete: an installation was interrupted", again)
    if not (folder / "bin" / "python").exists():
        return Finding(WARN, f"{folder} has no interpreter any more", again)
    found = compared(versions(folder), lock, again)
    return found._replace(status=WARN) if found.status == FIX else found  # only serving is hit


def versions(folder: Path) -> dict[str, str]:
    """Read the versions of what is installed in an environment, by plain name."""
    places = [str(place) for place in sorted(folder.glob("lib/python3*/site-packages"))]
    found = {}
    for one in distributions(path=places):
        name = one.metadata["Name"]
        if name:
            found[plain(name)] = one.version
    return found


def compared(installed: dict[str, str], lock: Path, again: str) -> Finding:
    """Compare versions with a lock. What the lock has and is not installed may be for another system."""
    wanted: dict[str, set[str]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        match = PIN.match(line)
        if match:  # one name may have several lines, each for some systems
            wanted.setdefault(plain(match[1]), set()).add(match[2])
    other = [
        f"{name} {installed[name]} (lock: {', '.join(sorted(pins))})"
        for name, pins in sorted(wanted.items())
        if name in installed and installed[name] not in pins and public(installed[name]) not in map(public, pins)
    ]
    if other:
        return Finding(FIX, f"not the versions of {lock}: {shortened(other)}", again)
    held = sum(name in installed for name in wanted)
    return Finding(OK, f"{held} packages, each in the version of {lock}")


def public(version: str) -> str:
    """Cut off what names a build, such as the `+cpu` of torch."""
    return version.partition("+")[0]


def plain(name: str) -> str:
    """Write a package's name as its index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def shortened(names: list[str]) -> str:
    """List the first names, and count the others."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
