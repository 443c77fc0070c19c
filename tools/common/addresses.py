"""Addresses: fetch a file from behind https://, by no other way than that."""

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import httpx


def parse(address: str) -> "httpx.URL":
    """Read an address.

    Raises:
        click.ClickException: it is none, or anyone on the way to it could change the rows.
    """
    import httpx

    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise click.ClickException(f"{address}: {error}; mend the address") from None
    if url.scheme in ("http", "https") and not url.host:
        raise click.ClickException(f"{shown(url)}: names no host; mend the address")
    # A server on this machine is as near as a file.
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.host)):
        raise click.ClickException(
            f"{shown(url)}: not https://, so anyone on the way could change it; find one that is"
        )
    return url


def shown(url: "httpx.URL") -> str:
    """Spell an address without password, query and fragment: it goes into git, and a query may hold a key."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def fetch(url: "httpx.URL", out: Path) -> None:
    """Write the bytes behind an address to a file, as they lie on the server.

    Raises:
        click.ClickException: it cannot be reached, refuses, breaks off, or leads on to another scheme.
    """
    import httpx
    from tqdm import tqdm

    def refuse_plain(request: httpx.Request) -> None:
        if request.url.scheme != "https" and request.url != url:
            raise click.ClickException(f"{shown(url)}: leads on to {shown(request.url)}, which is not https://")

    as_it_lies = {"Accept-Encoding": "identity"}  # a packed file must not be unpacked on the way
    hooks = {"request": [refuse_plain]}
    try:
        with (
            httpx.Client(follow_redirects=True, timeout=30, headers=as_it_lies, event_hooks=hooks) as client,
            client.stream("GET", url) as response,
            out.open("wb") as file,
        ):
            if not response.is_success:
                status = f"{response.status_code} {response.reason_phrase}"
                raise click.ClickException(f"{shown(url)}: {status}; check the address")
            total = int(response.headers.get("Content-Length", 0)) or None
            with tqdm(desc=out.name, total=total, unit="B", unit_scale=True, disable=None) as bar:
                for chunk in response.iter_raw():
                    bar.update(file.write(chunk))
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise click.ClickException(f"{shown(url)}: {reason}; check the address and the network") from None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
