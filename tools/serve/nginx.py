"""nginx: the reverse proxy in front of vLLM, of which it passes only a few paths, and in front of the chat page."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from tools.common.endpoints import HOME
from tools.serve.supervisord import Program

TEMPLATE = Path("docker/proxy.conf")
WEBUI_TEMPLATE = Path("docker/webui.conf")
# The rest of nginx's configuration; every file that it writes stays in its folder.
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


class Upstream(NamedTuple):
    """The address that clients use, and the servers behind it."""

    name: str
    listen: str
    servers: list[str]
    trusted_proxy: str = ""


def find_nginx() -> str | None:
    """Return the path of nginx, or None. Debian installs it in /usr/sbin, which is only on root's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def nginx_program(command: str, upstreams: list[Upstream], *others: str) -> Program:
    """Write nginx's configuration to .serve/nginx, and return the program that runs it.

    Args:
        command: the path of nginx.
        upstreams: the models.
        others: further parts of the section `http`.
    """
    folder = (HOME / "nginx").absolute()
    folder.mkdir(exist_ok=True)
    # As root it would run its workers as nobody, who may not use the sockets.
    user = "user root;\n" if os.geteuid() == 0 else ""
    parts = [*map(server_block, upstreams), *others]
    (folder / "nginx.conf").write_text(user + MAIN % "\n".join(parts), encoding="utf-8")
    return Program("nginx", [command, "-p", str(folder), "-e", "stderr", "-c", "nginx.conf"])


def server_block(upstream: Upstream) -> str:
    """Fill in docker/proxy.conf."""
    servers = " ".join(f"server {server};" for server in upstream.servers)
    values = {"NAME": upstream.name, "LISTEN": upstream.listen, "SERVERS": servers}
    return _filled(TEMPLATE, values, upstream.trusted_proxy)


def webui_block(listen: str, path: Path, trusted_proxy: str) -> str:
    """Fill in docker/webui.conf.

    Args:
        listen: address and port that users open.
        path: the socket of the chat page.
        trusted_proxy: the address of a server with TLS in front of it, or "".
    """
    return _filled(WEBUI_TEMPLATE, {"LISTEN": listen, "PAGE": f"http://unix:{path}:"}, trusted_proxy)


def _filled(template: Path, values: dict[str, str], trusted_proxy: str) -> str:
    """Fill in a template, as envsubst does in the nginx image."""
    text = template.read_text(encoding="utf-8")
    for name, value in (values | {"TRUSTED_PROXY": trusted_proxy or "unix:"}).items():
        text = text.replace(f"${{{name}}}", value)
    return text
