"""DVC's state: conflicts, locks of dead processes, the remote, the cache, and who owns the models."""

import configparser
import fcntl
import json
import os
import subprocess
import tempfile
from pathlib import Path

from tools.doctor.environment import shortened, venv
from tools.doctor.finding import FIX, OK, WARN, Finding

MERGED = ("dvc.lock", "dvc.yaml", "params.yaml")
MARKS = ("<<<<<<< ", ">>>>>>> ")
WAIT = 30  # seconds for an answer of a remote
REACH = """
import sys
from dvc.repo import Repo
fs, path = Repo(".").cloud.get_remote(sys.argv[1]).fs, Repo(".").cloud.get_remote(sys.argv[1]).path
print("there" if fs.exists(path) else "empty")
"""


def check_conflicts() -> Finding:
    """Look for marks that an unfinished merge left."""
    found = [name for name in MERGED if has_marks(Path(name))]
    if found == ["dvc.lock"]:
        text = "dvc.lock has conflict marks of a merge; it is written by DVC, so either side will do"
        return Finding(FIX, text, "git checkout --ours -- dvc.lock && make repro && git add dvc.lock")
    if found:
        text = f"{', '.join(found)}: conflict marks of a merge"
        return Finding(FIX, text, "choose a side of each in an editor, then `make repro` and `git add`")
    return Finding(OK, f"none in {', '.join(MERGED)}")


def has_marks(path: Path) -> bool:
    """Whether lines of a file are marks of a merge."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return any(line.startswith(MARKS) for line in lines)


def check_locks() -> Finding:
    """Look for locks of processes that are gone."""
    folder = Path(".dvc/tmp")
    lock = folder / "rwlock"
    try:
        text = lock.read_text(encoding="utf-8") if lock.exists() else ""
        held = json.loads(text) if text.strip() else {}
        infos = [info for entry in held.values() for info in [entry.get("write"), *(entry.get("read") or [])] if info]
        pids = sorted({int(info["pid"]) for info in infos})
    except (ValueError, AttributeError, LookupError, TypeError):
        return Finding(FIX, f"{lock}: damaged, so every DVC command fails", f"rm {lock}")
    dead = [pid for pid in pids if not lives(pid)]
    if dead:
        names = ", ".join(map(str, dead))
        return Finding(FIX, f"{lock}: held by process {names}, which is gone", f"rm {lock}")
    running = [file.name for file in sorted(Path(".scratch/running").glob("*")) if is_locked(file)]
    if pids or running or is_locked(folder / "lock"):
        who = ", ".join(dict.fromkeys([*map(str, pids), *running])) or "a process"
        return Finding(OK, f"DVC or a stage runs now ({who}); `make stop` ends it")
    return Finding(OK, "none is held")


def lives(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock on a file."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def dvc_config() -> configparser.ConfigParser:
    """Read DVC's configuration of this checkout."""
    config = configparser.ConfigParser(interpolation=None)
    config.read([".dvc/config", ".dvc/config.local"], encoding="utf-8")
    return config


def setting(config: configparser.ConfigParser, section: str, key: str) -> str:
    """Return a value without its quotes, empty where it is not set."""
    name = next((one for one in config.sections() if one.strip("'") == section), "")
    return config.get(name, key, fallback="").strip("\"'") if name else ""


def check_remote() -> Finding:
    """Look at DVC's default remote: whether it answers, and whether what comes from it is checked."""
    config = dvc_config()
    name = setting(config, "core", "remote")
    if not name:
        return Finding(WARN, "no default remote: models are on this machine alone", "dvc remote add -d NAME URL")
    url = setting(config, f'remote "{name}"', "url")
    if not url:
        return Finding(FIX, f"the default remote {name} has no url", f"dvc remote add -d {name} URL")
    if "://" not in url:
        place = Path(".dvc", url).resolve()
        if place.is_relative_to(Path.cwd().resolve()):
            text = f"{name}: {url}, in this checkout: no copy elsewhere"
            return Finding(OK, text)
        if not place.exists():
            return Finding(
                WARN, f"{name}: {place} is not there", f"mkdir -p {place}, or mount its disk; then dvc push"
            )
    problem = unreachable(name)
    if problem:
        return Finding(
            WARN, f"{name}: {url} gives no answer: {problem}", f"dvc push --remote {name}; see docs/running.md"
        )
    if setting(config, f'remote "{name}"', "verify").lower() != "true":
        text = f"{name}: {url} answers; what others put there is not checked when it is pulled"
        return Finding(WARN, text, f"dvc remote modify {name} verify true")
    return Finding(OK, f"{name}: {url} answers, and what is pulled is checked")


def unreachable(name: str) -> str:
    """Ask a remote for its folder, by DVC itself; returns the problem, or nothing."""
    python = venv() / "bin" / "python"
    try:
        done = subprocess.run([python, "-c", REACH, name], capture_output=True, text=True, timeout=WAIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return (lines or ["it failed"])[-1][:200] if done.returncode else ""


def check_cache() -> Finding:
    """Try whether DVC's cache can share its files with the checkout by hard links."""
    config = dvc_config()
    types = [one.strip() for one in (setting(config, "cache", "type") or "reflink,copy").split(",")]
    folder = Path(".dvc", setting(config, "cache", "dir") or "cache")
    folder = folder if folder.exists() else folder.parent
    if "symlink" in types:
        text = "cache.type has symlink: such links are absolute, and lead nowhere in a container"
        return Finding(FIX, text, "dvc config cache.type hardlink,copy && dvc checkout --relink")
    if not folder.exists():
        return Finding(WARN, f"{folder} is not there", "dvc cache dir FOLDER")
    if not os.access(folder, os.W_OK):
        return Finding(FIX, f"{folder} cannot be written", f"sudo chown -R $(id -u):$(id -g) {folder}")
    try:
        with tempfile.NamedTemporaryFile(dir=".") as file, tempfile.TemporaryDirectory(dir=folder) as there:
            os.link(file.name, Path(there) / "file")
    except OSError as error:
        text = f"no hard links between {folder} and the checkout ({error.strerror}): each file takes its bytes twice"
        return Finding(WARN, text, "dvc cache dir FOLDER, on the disk of the checkout")
    if "hardlink" not in types:
        text = f"cache.type is {','.join(types)}: each file takes its bytes twice"
        return Finding(WARN, text, "dvc config cache.type hardlink,copy && dvc checkout --relink")
    return Finding(OK, f"{folder} shares its files with the checkout by hard links")


def check_models() -> Finding:
    """Look for outs that the owner of this checkout cannot read or replace, such as those that root has written."""
    here = Path().stat()
    wrong = []
    for top in ("models", "data/prepared", "metrics"):
        for path in [Path(top), *sorted(Path(top).rglob("*"))] if Path(top).exists() else []:
            facts = path.stat()
            own = facts.st_uid == here.st_uid
            needed = (0o700 if own else 0o007) if path.is_dir() else (0o400 if own else 0o004)
            if facts.st_mode & needed != needed:
                wrong.append(str(path))
    if wrong:
        folders = sorted({name.partition("/")[0] for name in wrong})
        owner = f"{here.st_uid}:{here.st_gid}"
        text = f"the owner of this checkout cannot read or replace {shortened(wrong)}"
        return Finding(FIX, text, f"sudo chown -R {owner} {' '.join(folders)} && chmod -R u+rwX {' '.join(folders)}")
    return Finding(OK, "the owner of this checkout can read and replace every out")
