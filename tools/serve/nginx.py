"""nginx: the reverse proxy in front of vLLM. It passes only the paths that docker/proxy.conf names."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from tools.common.endpoints import HOME
from tools.serve.supervisord import Program

TEMPLATE = Path("docker/proxy.conf")
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


def find_nginx() -> str | None:
    """Return the path of nginx, or None. Debian installs it in /usr/sbin, which is only on root's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def nginx_program(command: str, upstreams: list[Upstream]) -> Program:
    """Write nginx's configuration to .serve/nginx, and return the program that runs it."""
    folder = (HOME / "nginx").absolute()
    folder.mkdir(exist_ok=True)
    # As root it would run its workers as nobody, who may not use the sockets.
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(user + MAIN % "\n".join(map(server_block, upstreams)), encoding="utf-8")
    return Program("nginx", [command, "-p", str(folder), "-e", "stderr", "-c", "nginx.conf"])


def server_block(upstream: Upstream) -> str:
    """Fill in docker/proxy.conf, as envsubst does in the nginx image."""
    servers = " ".join(f"server {server};" for server in upstream.servers)
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, value in {"NAME": upstream.name, "LISTEN": upstream.listen, "SERVERS": servers}.items():
        text = text.replace(f"${{{name}}}", value)
    return text
