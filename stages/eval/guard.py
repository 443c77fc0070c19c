"""Guard: run a server that ends with the process that started it, and without a network where that is asked for.

    python guard.py [--variables FILE] [--remove SOCKET]... [--alone [--door PORT=SOCKET]...] -- COMMAND...

When the starting process ends, however it ends, its pipe to this one breaks, and this one kills the server and its
children. SIGTERM is not enough: vLLM ignores it while it loads. vllm_server.py and tools/serve run this file, which
needs nothing but Python.
"""

import argparse
import asyncio
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # flags of unshare(2)
SET_FLAGS, UP = 0x8914, 0x1  # an ioctl of network interfaces (netdevice(7)), and the flag of one that runs


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--variables", type=Path, help="JSON: the whole environment of the server")
    parser.add_argument("--remove", type=Path, action="append", default=[], help="a socket that may be left over")
    parser.add_argument("--alone", action="store_true", help="without a network; exit 1 where that is not allowed")
    parser.add_argument("--door", action="append", default=[], help="a port of its loopback interface, with a socket")
    parser.add_argument("command", nargs="*", help="none: only try what is asked for")
    options = parser.parse_args()
    variables = json.loads(options.variables.read_text(encoding="utf-8")) if options.variables else None
    for path in options.remove:
        path.unlink(missing_ok=True)
    if options.alone:
        leave_network()
        open_doors([door.split("=", 1) for door in options.door])
    return run(options.command, variables) if options.command else 0


def can_leave_network() -> bool:
    """Whether this system lets its users start processes without a network; some let only root do so."""
    return subprocess.run([sys.executable, __file__, "--alone"], capture_output=True, check=False).returncode == 0


def leave_network() -> None:
    """Move this process into a network namespace of its own, whose only interface is loopback.

    Raises:
        OSError: not allowed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_NETWORK):  # allowed to root; to others in a user namespace of their own
        if libc.unshare(NEW_USER | NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "no network namespace")
        maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
        for name, text in maps.items():
            Path("/proc/self", name).write_text(text, encoding="ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as interfaces:
        fcntl.ioctl(interfaces, SET_FLAGS, struct.pack("16sh14x", b"lo", UP))


def open_doors(doors: list[list[str]]) -> None:
    """Listen on ports of the loopback interface, each of which leads to a socket outside the namespace."""
    loop = asyncio.new_event_loop()
    for port, path in doors:
        loop.run_until_complete(asyncio.start_server(partial(_connect, path), "127.0.0.1", int(port)))
    threading.Thread(target=loop.run_forever, daemon=True).start()


async def _connect(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        far_reader, far_writer = await asyncio.open_unix_connection(path)
    except OSError:
        writer.close()
        return
    ways = [asyncio.create_task(_carry(reader, far_writer)), asyncio.create_task(_carry(far_reader, writer))]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)  # one side has closed: so does the other
    for way in ways:
        way.cancel()
    for end in (writer, far_writer):
        end.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass


def run(command: list[str], variables: dict[str, str] | None) -> int:
    """Run the server; end it when standard input, the pipe from the starting process, breaks.

    Returns:
        Its exit status. A server that a signal ended takes its children, and this process, with it.
    """
    server = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    threading.Thread(target=_end_with_the_pipe, daemon=True).start()
    if (code := server.wait()) < 0:
        os.killpg(0, signal.SIGKILL)
    return code


def _end_with_the_pipe() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
