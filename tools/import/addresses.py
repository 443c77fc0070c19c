"""Addresses: download a file over https://, and over nothing else."""

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import httpx


def parse_address(address: str) -> "httpx.URL":
    """Parse an address.

    Raises:
        click.ClickException: it is not valid, or not https:// (http:// is allowed on this machine).
    """
    import httpx

    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise click.ClickException(f"{address}: {error}; correct the address") from None
    if url.scheme in ("http", "https") and not url.host:
        raise click.ClickException(f"{shown(url)}: it has no host; correct the address")
    # What a server on this machine sends does not cross a network.
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.host)):
        raise click.ClickException(
            f"{shown(url)}: not https://, so the network could change the rows; use an https:// address"
        )
    return url


def shown(url: "httpx.URL") -> str:
    """Return an address without password, query and fragment: git records it, and a query may hold a key."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def download(url: "httpx.URL", out: Path) -> None:
    """Download the bytes of an address to a file, compressed ones as they are.

    Raises:
        click.ClickException: no connection, an error status, a broken connection, or a redirect away from https://.
    """
    import httpx
    from tqdm import tqdm

    def refuse_plain(request: httpx.Request) -> None:
        if request.url.scheme != "https" and request.url != url:
            raise click.ClickException(
                f"{shown(url)}: redirects to {shown(request.url)}, which is not https://; use another address"
            )

    unchanged = {"Accept-Encoding": "identity"}  # no compression on the way: a .gz file must stay one
    hooks = {"request": [refuse_plain]}
    try:
        with (
            httpx.Client(follow_redirects=True, timeout=30, headers=unchanged, event_hooks=hooks) as client,
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
