"""Serving: the file of its secrets, its ports, and the token of the hub."""

import os
import re
import socket
import stat
from pathlib import Path

from tools.doctor.dvc_state import is_locked
from tools.doctor.environment import shortened
from tools.doctor.finding import FIX, OK, WARN, Finding

SECRETS, EXAMPLE = Path(".env"), Path("docker/.env.example")
PORT = re.compile(r"^(\w+_PORT)=(.*)$", re.MULTILINE)


def check_secrets() -> Finding:
    """Look at who may read .env. What is in it is not read."""
    if not SECRETS.exists():
        return Finding(OK, f"no {SECRETS} yet; the first `make serve` makes it")
    mode = stat.S_IMODE(SECRETS.stat().st_mode)
    if mode & 0o077:
        return Finding(
            FIX, f"{SECRETS} has mode {mode:04o}: others can read the keys of the server", f"chmod 600 {SECRETS}"
        )
    return Finding(OK, f"{SECRETS} has mode {mode:04o}")


def check_ports() -> Finding:
    """Try whether the ports of serving are free."""
    ports = dict(PORT.findall(EXAMPLE.read_text(encoding="utf-8")))
    own = SECRETS.read_text(encoding="utf-8") if SECRETS.exists() and os.access(SECRETS, os.R_OK) else ""
    ports.update(PORT.findall(own))
    ports = {name: os.environ.get(name) or value.strip("\"' ") for name, value in ports.items()}
    wrong = [name for name, value in ports.items() if not (value.isdigit() and 0 < int(value) < 65536)]
    if wrong:
        return Finding(FIX, f"{wrong[0]}: not a port ({ports[wrong[0]]!r})", f"correct it in {SECRETS}")
    used = [f"{name} {value}" for name, value in ports.items() if is_used(int(value))]
    if not used:
        return Finding(OK, f"{', '.join(ports.values())} are free")
    if any(
        is_locked(file) and "serve" in file.read_text(encoding="utf-8") for file in Path(".scratch/running").glob("*")
    ):
        return Finding(OK, f"in use by what is served here: {', '.join(used)}; `make status` shows it")
    name = used[0].split()[0]
    text = f"in use by another program: {shortened(used)}"
    return Finding(WARN, text, f"set {name} to a free one in {SECRETS} or in the environment, or end that program")


def is_used(port: int) -> bool:
    """Whether a program listens on a port of this machine."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def check_hub() -> Finding:
    """Look for a token of the hub, where the base model comes from there. It is not printed."""
    params = Path("params.yaml")
    text = params.read_text(encoding="utf-8", errors="replace") if params.exists() else ""
    match = re.search(r"^base:.*\n(?:[ #].*\n|\n)*? +source: *[\"']?(\w+)", text, re.MULTILINE)
    source = match[1] if match else "unknown"
    if source != "hub":
        return Finding(OK, f"no token is needed: base.source is {source}")
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    if os.environ.get("HF_TOKEN"):
        return Finding(OK, "HF_TOKEN is set")
    if file.exists():
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            return Finding(FIX, f"{file}: others can read the token of the hub", f"chmod 600 {file}")
        return Finding(OK, f"a token is in {file}")
    return Finding(
        WARN, "no token of the hub: models whose licence must be accepted are refused", "export HF_TOKEN=..."
    )
