"""Door: nginx before vLLM's servers, which lets through what docker/proxy.conf names; and the ports it takes."""

import os
import shutil
import socket
from pathlib import Path
from typing import NamedTuple

import click

from tools.serving.supervision import HOME, Part

TEMPLATE = Path("docker/proxy.conf")
# The rest of what nginx wants to know; all that it writes stays in its folder.
MAIN = """daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log /dev/stdout;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
%s
}
"""


class Way(NamedTuple):
    """An address that clients use, and the servers behind it."""

    name: str
    listen: str
    servers: list[str]


def nginx() -> str | None:
    """Find nginx, which Debian keeps where only root looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def part(command: str, ways: list[Way]) -> Part:
    """Write nginx's configuration, and give the part that runs it."""
    folder = (HOME / "proxy").absolute()
    folder.mkdir(exist_ok=True)
    # As root it would run its workers as nobody, who may not use the sockets.
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(user + MAIN % "\n".join(map(filled, ways)), encoding="utf-8")
    return Part("proxy", [command, "-p", str(folder), "-e", "stderr", "-c", "nginx.conf"])


def filled(way: Way) -> str:
    """Fill in docker/proxy.conf, as the nginx image does it."""
    servers = " ".join(f"server {server};" for server in way.servers)
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, value in {"NAME": way.name, "LISTEN": way.listen, "SERVERS": servers}.items():
        text = text.replace(f"${{{name}}}", value)
    return text


def require_free(bind: str, ports: list[tuple[str, str | int]]) -> None:
    """Make sure that nothing listens on the ports yet.

    Args:
        bind: the address to listen on.
        ports: each with the key of .env that sets it.

    Raises:
        click.ClickException: one is taken, or the machine has no such address.
    """
    for key, port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # those of ended servers do not count
            try:
                probe.bind((bind, int(port)))
            except OSError as error:
                look = f"`ss -ltnp sport = :{port}` shows by what; or set {key} in .env"
                raise click.ClickException(
                    f"{bind}:{port}: cannot be listened on ({error.strerror}); {look}"
                ) from None
