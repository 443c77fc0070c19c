#!/usr/bin/env python3
"""Find the image of a target of docker/Dockerfile, by the hash of what it is made of; pull or build what is missing.

    docker/image.py TARGET...    prints their names

Environment: BASE_IMAGE (default: a CUDA image where there is a GPU, else plain Debian), REGISTRY (such as
registry.example/lockstep: pulled from there before anything is built), SSL_CERT_FILE (a CA bundle for the build's
downloads), PIP_INDEX_URL, the usual proxy variables. From pip's `find-links` folder come wheels of locked versions.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import runtime
from container import PROXIES

ROOT = Path(__file__).resolve().parents[1]
PLAIN = "debian:bookworm-20260918-slim"  # Python 3.11
# What decides about the content of a target, beside the Dockerfile and the groups in pyproject.toml.
LOCKS = {
    "trainer": ["pipeline.txt"],
    "awq": ["pipeline.txt"],
    "vllm": ["serve.txt", "serve-overrides.txt", "vllm/pyproject.toml"],
    "open-webui": ["webui.txt", "webui-overrides.txt"],
    "proxy": [],
}
WHEELS = ROOT / ".scratch" / "wheels"


def of_stage(stage: str) -> str:
    """Give the image that a stage runs in; tools run in the fuller one."""
    lean = ("base", "preprocess", "train", "merge", "eval", "compare", "report")
    return find("trainer" if stage.partition("@")[0] in lean else "awq")


def find(target: str) -> str:
    """Give the name of a target's image, which is there when this returns."""
    name = f"lockstep-{target}:{fingerprint(target)}"
    if exists(name):
        return name
    WHEELS.parent.mkdir(exist_ok=True)
    with (WHEELS.parent / "images.lock").open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two stages may need it at once
        if not exists(name) and not pulled(name):
            build(target, name)
    return name


def base() -> str:
    """Give the image that all is built on; empty for the Dockerfile's own."""
    return os.environ.get("BASE_IMAGE") or ("" if runtime.has_gpu() else PLAIN)


def fingerprint(target: str) -> str:
    """Hash all that decides about what an image contains."""
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    groups = re.search(r"^\[dependency-groups\]\n(.*?)(?=^\[)", settings, re.MULTILINE | re.DOTALL)
    parts = [(ROOT / name).read_text(encoding="utf-8") for name in ("docker/Dockerfile", "docker/install")]
    parts += [groups[1] if groups else "", lock(target), base()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def lock(target: str) -> str:
    """Give the lists of versions that a target installs."""
    return "\0".join((ROOT / "requirements" / name).read_text(encoding="utf-8") for name in LOCKS[target])


def exists(name: str) -> bool:
    """Whether the engine has an image."""
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sys.exit("docker/run: RUNTIME=docker, and there is no `docker` here; RUNTIME=local does without")
    if done.returncode and "no such image" not in done.stderr.lower():
        sys.exit(f"docker/run: {done.stderr.strip()}")
    return done.returncode == 0


def pulled(name: str) -> bool:
    """Whether the registry, if one is set, has the image; then it is here under its short name, too."""
    registry = os.environ.get("REGISTRY", "").rstrip("/")
    if (
        not registry
        or subprocess.run(["docker", "pull", f"{registry}/{name}"], stdout=sys.stderr, check=False).returncode
    ):
        return False
    subprocess.run(["docker", "tag", f"{registry}/{name}", name], check=True)
    return True


def build(target: str, name: str) -> None:
    """Build an image; its output goes to stderr, as it belongs to no stage."""
    print(f"building {name}, once for this lock; it takes some minutes", file=sys.stderr, flush=True)
    collect_wheels()
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    arguments = {"REVISION": revision.stdout.strip(), "LOCK": hashlib.sha256(lock(target).encode()).hexdigest()}
    arguments |= {"BASE_IMAGE": base()} if base() else {}
    passed = [key for key in os.environ if key.upper() in PROXIES]
    command = [
        *("docker", "build", "--quiet", "--network", "host", "--file", "docker/Dockerfile", "--target", target),
        *("--tag", name, *(f"--build-arg={key}={value}" for key, value in arguments.items())),
        *(f"--build-arg={key}" for key in passed),
        *([f"--secret=id=ca,src={os.environ['SSL_CERT_FILE']}"] if os.environ.get("SSL_CERT_FILE") else ()),
        *(["--secret=id=index,env=PIP_INDEX_URL"] if os.environ.get("PIP_INDEX_URL") else ()),
        ".",
    ]
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    if subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, check=False).returncode:
        sys.exit(f"docker/run: {name} was not built; its error is above")


def collect_wheels() -> None:
    """Bring the wheels of locked versions to where a build can see them; a link where that will do."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir(parents=True)
    lists = [path.read_text(encoding="utf-8").splitlines() for path in sorted((ROOT / "requirements").glob("*.txt"))]
    locked = {line.split(";")[0].strip() for lines in lists for line in lines}
    for wheel in (path for folder in links() for path in sorted(Path(folder).glob("*.whl"))):
        name, version = wheel.name.split("-")[:2]
        if f"{name.lower().replace('_', '-')}=={version.partition('+')[0]}" in locked:
            try:
                os.link(wheel, WHEELS / wheel.name)
            except OSError:
                shutil.copy(wheel, WHEELS / wheel.name)


def links() -> list[str]:
    """Give the folders in pip's find-links setting."""
    binaries = Path(os.environ.get("VENV", ROOT / ".venv")) / "bin"
    pip = [str(binaries / "pip")] if (binaries / "pip").exists() else [sys.executable, "-m", "pip"]
    done = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False)
    settings = re.findall(r"find-links='(.*)'", done.stdout)
    found = {part for setting in settings for part in re.split(r"\s+|\\n", setting) if Path(part).is_dir()}
    return sorted(found - {""})


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        found = find(wanted)
        # docker/compose.yaml knows it by this name.
        subprocess.run(["docker", "tag", found, f"lockstep-{wanted}:latest"], check=True)
        print(found)
