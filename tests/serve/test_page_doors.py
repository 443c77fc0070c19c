"""What the chat page's admin may not do: add code, connections or addresses; and which names the page answers to."""

import os
import subprocess
from pathlib import Path

import httpx
import pytest
from needs import missing
from page_doors import META, PIPE, REFUSED, require_no_way_around, require_refusal
from processes import below, words
from serving import Served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def admin(served: Served) -> httpx.Client:
    """The page's admin, who signs in once: the page counts sign-ins."""
    return served.webui()


@pytest.mark.parametrize("case", REFUSED)
def test_the_admin_is_refused(admin: httpx.Client, case: str) -> None:
    require_refusal(admin, case)


def test_no_spelling_of_a_path_gets_past_nginx(served: Served, admin: httpx.Client) -> None:
    require_no_way_around(served, admin)


@pytest.mark.parametrize("path", ["/api/v1/functions/create", "/api/v1/tools/create"])
def test_the_page_itself_takes_no_code_either(served: Served, admin: httpx.Client, path: str) -> None:
    """Its own setting holds where nginx passes everything."""
    socket = str(served.folder / ".serve" / "open-webui.sock")
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://page", timeout=60) as bare:
        bare.headers["Authorization"] = admin.headers["Authorization"]
        assert bare.post(path, json=META | {"content": PIPE}).is_error
    assert admin.get("/api/v1/functions/").json() == admin.get("/api/v1/tools/").json() == []


def test_a_profile_image_at_an_address_is_not_passed_on(admin: httpx.Client) -> None:
    """Else the browser of each user who sees the picture asks that address."""
    user = admin.get("/api/v1/auths/").raise_for_status().json()
    profile = {"name": user["name"], "profile_image_url": "http://192.0.2.1/x.png"}
    admin.post("/api/v1/auths/update/profile", json=profile)
    try:
        answer = admin.get(f"/api/v1/users/{user['id']}/profile/image", follow_redirects=False)
        assert "192.0.2.1" not in answer.headers.get("Location", "")
    finally:
        admin.post(
            "/api/v1/auths/update/profile", json=profile | {"profile_image_url": "/user.png"}
        ).raise_for_status()


def test_users_see_no_path_of_the_model(served: Served, admin: httpx.Client) -> None:
    shown = admin.get("/api/models").raise_for_status().text
    shown += httpx.get(f"{served.address}/v1/models", headers={"Authorization": f"Bearer {served.key()}"}).text
    assert served.model() in shown
    assert "/models" not in shown
    assert str(served.folder) not in shown


def test_a_foreign_name_is_refused(served: Served) -> None:
    """As a page of another site calls it after DNS rebinding."""
    address = f"http://127.0.0.1:{served.variables['WEBUI_PORT']}/health"
    statuses = {
        name: httpx.get(address, headers={"Host": name}).status_code
        for name in ("127.0.0.1", "localhost:3000", "evil.example", "127.0.0.1.evil.example")
    }
    assert list(statuses.values()) == [200, 200, 421, 421]


def test_other_users_of_this_machine_read_no_log_and_reach_no_socket(served: Served) -> None:
    logs = list((served.folder / "logs" / "serve").glob("*.log"))
    assert len(logs) == 4
    assert {oct(path.stat().st_mode & 0o777) for path in logs} == {"0o640"}
    if os.geteuid():
        missing("root")
    sockets = list((served.folder / ".serve").glob("*.sock"))
    assert len(sockets) == 3
    for parent in served.folder.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)  # pytest closes its folders, so that they would be the reason
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    served.folder.chmod(0o755)
    for path in sockets:
        line = ["/usr/bin/python3", "-c", code, str(path)]
        assert subprocess.run(line, capture_output=True).returncode == 0
        done = subprocess.run(line, capture_output=True, text=True, user=65534, group=65534, extra_groups=[])
        assert "PermissionError" in done.stderr, path


def test_each_program_knows_its_own_secrets_and_nothing_of_the_shell(served: Served) -> None:
    """tests/support/serving.py serves from a shell with keys of other services."""
    known = {"bin/vllm": {"API_KEY"}, "webui_server.py": {"API_KEY", "ADMIN_PASSWORD", "WEBUI_SECRET_KEY"}}
    every = [served.supervisor(), *below(served.supervisor())]
    mains = {pid: name for pid in every for name in known if any(one.endswith(name) for one in words(pid)[1:3])}
    assert sorted(mains.values()) == sorted(known)
    owner = {child: name for pid, name in mains.items() for child in (pid, *below(pid))}
    for pid in every:
        variables = Path(f"/proc/{pid}/environ").read_bytes().decode()
        assert "of the shell" not in variables, words(pid)
        held = {
            secret for secret in ("API_KEY", "ADMIN_PASSWORD", "WEBUI_SECRET_KEY") if served.key(secret) in variables
        }
        assert held <= (known[owner[pid]] if pid in owner else set()), words(pid)
        if pid in mains:
            assert held == known[mains[pid]], words(pid)
