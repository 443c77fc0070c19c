"""Wrong passwords slow down the address that they come from, and nobody else."""

from collections import Counter

import httpx
import pytest
from serving import Served

pytestmark = pytest.mark.slow
TRIES = 20


def sign_in(served: Served, address: str, password: str) -> httpx.Response:
    transport = httpx.HTTPTransport(local_address=address)
    base = f"http://127.0.0.1:{served.variables['WEBUI_PORT']}"
    with httpx.Client(base_url=base, transport=transport, timeout=60) as client:
        account = {"email": served.key("ADMIN_EMAIL"), "password": password}
        return client.post("/api/v1/auths/signin", json=account)


def test_wrong_passwords_slow_their_address_and_do_not_lock_the_owner_out(served: Served) -> None:
    """Open WebUI's own limit, by account, answered 429 to the owner after fifteen."""
    statuses = Counter(sign_in(served, "127.0.0.3", f"wrong {number}").status_code for number in range(TRIES))
    assert set(statuses) == {400, 429}
    assert statuses[429] >= TRIES // 4
    slowed = sign_in(served, "127.0.0.3", served.key("ADMIN_PASSWORD"))
    assert slowed.status_code == 429
    assert int(slowed.headers["Retry-After"]) > 0
    assert "Too many" in slowed.json()["detail"]
    owner = sign_in(served, "127.0.0.2", served.key("ADMIN_PASSWORD"))
    assert owner.raise_for_status().json()["token"]


def test_the_cookie_is_of_no_use_to_scripts_and_to_other_sites(served: Served) -> None:
    answer = sign_in(served, "127.0.0.6", served.key("ADMIN_PASSWORD"))
    cookies = answer.headers.get_list("Set-Cookie")
    assert [cookie for cookie in cookies if cookie.startswith("token=")]
    for cookie in cookies:
        assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in cookie.split(";")}, cookie
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"  # no other site shows the page inside its own
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_many_addresses_do_not_lock_the_owner_out(served: Served) -> None:
    statuses = [sign_in(served, f"127.0.1.{number}", "wrong").status_code for number in range(1, TRIES + 1)]
    assert set(statuses) == {400}
    assert sign_in(served, "127.0.0.4", served.key("ADMIN_PASSWORD")).is_success


def test_a_new_password_is_long(served: Served) -> None:
    """Guesses from many addresses are slowed one by one only."""
    admin = served.webui()
    account = {"name": "Ann", "email": "ann@localhost", "role": "user"}
    answer = admin.post("/api/v1/auths/add", json=account | {"password": "elevenchars"})
    assert answer.status_code == 400
    assert "12 characters or more" in answer.json()["detail"]
    added = admin.post("/api/v1/auths/add", json=account | {"password": "twelve chars"}).raise_for_status().json()
    admin.delete(f"/api/v1/users/{added['id']}").raise_for_status()


def test_another_spelling_of_the_path_is_no_way_around(served: Served) -> None:
    base = f"http://127.0.0.1:{served.variables['WEBUI_PORT']}"
    account = {"email": served.key("ADMIN_EMAIL"), "password": "wrong"}
    paths = ("//api/v1/auths/signin", "/api/v1/auths/%73ignin", "/api/v1/./auths/signin", "/api/v1/auths/signin?x=1")
    transport = httpx.HTTPTransport(local_address="127.0.0.5")
    with httpx.Client(base_url=base, transport=transport, timeout=60, follow_redirects=True) as client:
        statuses = [client.post(paths[number % 4], json=account).status_code for number in range(48)]
    passed = [status for status in statuses if status not in (403, 404, 405, 429)]
    assert len(passed) <= 16, statuses  # ten, and six a minute


def test_the_page_has_no_other_address_than_the_front(served: Served) -> None:
    """Only its owner can reach the socket."""
    assert (served.folder / ".serve").stat().st_mode & 0o077 == 0
    assert (served.folder / ".serve" / "open-webui.sock").is_socket()
