"""Run every check, each by itself, and print what it found. Needs Python 3.9 or newer and nothing else.

`python3 -m tools.doctor.plain` runs where the environment is missing or broken; see `python -m tools.doctor`.
"""

import json
import sys
from collections.abc import Callable

from tools.doctor import dvc_state, environment, machine, serving
from tools.doctor.finding import FIX, Finding

CHECKS: dict[str, Callable[[], Finding]] = {
    "python": environment.check_python,
    "libraries": environment.check_libraries,
    "vllm": environment.check_vllm,
    "webui": environment.check_webui,
    "memory": machine.check_memory,
    "disk": machine.check_disk,
    "processor": machine.check_processor,
    "allocator": machine.check_allocator,
    "gpu": machine.check_gpu,
    "containers": machine.check_containers,
    "conflicts": dvc_state.check_conflicts,
    "locks": dvc_state.check_locks,
    "remote": dvc_state.check_remote,
    "cache": dvc_state.check_cache,
    "models": dvc_state.check_models,
    "secrets": serving.check_secrets,
    "ports": serving.check_ports,
    "hub": serving.check_hub,
}


def run(as_json: bool) -> int:
    """Run the checks and print what they found.

    Returns:
        The exit code: 1 if something is to be fixed.
    """
    found = {name: isolated(check) for name, check in CHECKS.items()}
    if as_json:
        print(json.dumps({name: finding._asdict() for name, finding in found.items()}, indent=2))
    else:
        width = max(map(len, found))
        for name, finding in found.items():
            print(f"{finding.status:4}  {name:{width}}  {finding.text}")
            if finding.command:
                print(f"      {'':{width}}  -> {finding.command}")
    return 1 if any(finding.status == FIX for finding in found.values()) else 0


def isolated(check: Callable[[], Finding]) -> Finding:
    """Run a check. An error of the check itself is a finding, too, and no other check is lost by it."""
    try:
        return check()
    except (Exception, SystemExit) as error:
        lines = str(error).splitlines() or [""]
        text = f"this check itself failed: {type(error).__name__}: {lines[0]}"
        return Finding(FIX, text, "correct what it names, or report it as a fault of `make doctor`")


if __name__ == "__main__":
    sys.exit(run("--json" in sys.argv[1:]))
