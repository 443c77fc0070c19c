"""nginx: the reverse proxy in front of vLLM and of the chat page. It passes only what docker/*.conf names."""

import os
import shutil
from pathlib import Path

from stages.eval.server_variables import inherited
from tools.common.endpoints import HOME
from tools.serve.supervisord import Program

API, PAGE = Path("docker/proxy.conf"), Path("docker/page.conf")  # templates
NOBODY = "255.255.255.255"  # the address of no client
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


def find_nginx() -> str | None:
    """Return the path of nginx, or None. Debian installs it in /usr/sbin, which is only on root's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def nginx_program(command: str, servers: list[str], sockets: list[Path]) -> Program:
    """Write nginx's configuration to .serve/nginx, and return the program that runs it.

    Args:
        command: the path of nginx.
        servers: what api_server and page_server return.
        sockets: those of the servers that listen on one; nginx leaves them behind when it is killed.
    """
    folder = (HOME / "nginx").absolute()
    folder.mkdir(exist_ok=True)
    # As root it would run its workers as nobody, who may not use the sockets.
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(user + MAIN % "\n".join(servers), encoding="utf-8")
    line = [command, "-p", str(folder), "-e", "stderr", "-c", "nginx.conf"]
    return Program("nginx", line, inherited("PATH"), tuple(sockets))


def api_server(name: str, listen: list[str], servers: list[str], trusted_proxy: str) -> str:
    """Fill in docker/proxy.conf.

    Args:
        name: any.
        listen: the addresses that clients use.
        servers: the servers of vLLM behind them.
        trusted_proxy: the address of a server with TLS in front of it, or "".
    """
    return _filled_in(API, name, listen, servers, TRUSTED_PROXY=trusted_proxy or NOBODY)


def page_server(listen: list[str], server: str, names: str, plugins: bool, trusted_proxy: str) -> str:
    """Fill in docker/page.conf.

    Args:
        listen: the addresses that browsers use.
        server: the chat page.
        names: the names by which browsers may call it, with spaces.
        plugins: whether every path is open.
        trusted_proxy: the address of a server with TLS in front of it, or "".
    """
    opened = {"HOSTS": names, "OPEN": "all" if plugins else "chat", "TRUSTED_PROXY": trusted_proxy or NOBODY}
    return _filled_in(PAGE, "page", listen, [server], **opened)


def _filled_in(template: Path, name: str, listen: list[str], servers: list[str], **others: str) -> str:
    """Fill in a template, as envsubst does in the nginx image."""
    text = template.read_text(encoding="utf-8")
    lists = {"LISTEN": "; listen ".join(listen), "SERVERS": " ".join(f"server {server};" for server in servers)}
    for variable, value in {"NAME": name, **lists, **others}.items():
        text = text.replace(f"${{{variable}}}", value)
    return text
