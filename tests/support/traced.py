"""Traced: what a program sends, and to whom, by strace."""

import re
import shutil

from needs import missing

# Followed by the file that gets the trace, and the command.
STRACE = [
    *("strace", "--follow-forks", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg"),
    *("-s", "0", "-o"),
]
LOOPBACK = re.compile(r'inet_addr\("127\.|"(::ffff:127\.|::1")')


def require_strace() -> None:
    """Skip without strace."""
    if not shutil.which("strace"):
        missing("strace")


def attempts(trace: str) -> list[str]:
    """Find the calls that would send something to another machine, or ask a name server, which may be on this one."""
    asked = [line for line in trace.splitlines() if "sa_family=AF_INET" in line or "io.systemd.Resolve" in line]
    return [line for line in asked if "htons(53)" in line or not LOOPBACK.search(line)]
