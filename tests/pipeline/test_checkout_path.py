"""The path of the checkout: make works in it or refuses at once in one line, and writes nothing elsewhere."""

import shutil
from pathlib import Path

import pytest
from checkouts import checkout, run

pytestmark = pytest.mark.slow  # starts processes

FIT = ["plain", "a#b", "a=b", "a+b,c", "a@b^c", "a!b", "~a~", "-a", ".a", "ünï_日本"]
UNFIT = ["My project", " before", "after ", "a\tb", "a$HOME", "a%b", "a:b", "a;b", "a&b", "a|b", "a<b", "a>b", "a(b)"]
UNFIT += ["a[b]", "a{b,c}", "a*b", "a?b", "a'b", 'a"b', "a\\b", "a`b`"]


@pytest.mark.parametrize("name", FIT)
def test_a_fit_path_works(tmp_path: Path, name: str) -> None:
    folder = checkout(tmp_path / name)
    done = run(folder, "make", "recipe")
    assert (done.returncode, done.stdout) == (0, f"{folder}/.venv/bin/python -m tools.recipe --\n")
    done = run(folder, "make", "runtime")
    assert (done.returncode, done.stdout.split(" ", 1)[-1]) == (0, "-m tools.runtime\n"), done.stderr
    assert "Nothing to be done" in run(folder, "make", "-n", "install").stdout


@pytest.mark.parametrize("name", UNFIT)
def test_an_unfit_path_is_refused_in_one_line_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    folder = checkout(tmp_path / name)
    shutil.rmtree(folder / ".venv")
    before = sorted(tmp_path.rglob("*"))
    for arguments in (["help"], ["install"], ["-n", "install"], ["-C", "."]):
        done = run(folder, "make", *arguments)
        assert done.returncode == 2
        (line,) = [line for line in done.stderr.splitlines() if "*** the path of this checkout" in line]
        assert f'("{folder}") has blanks or characters that make or the shell would misread; move it to' in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_does_not_hide_an_unfit_path(tmp_path: Path) -> None:
    checkout(tmp_path / "My project")
    (tmp_path / "link").symlink_to("My project")
    assert "*** the path of this checkout" in run(tmp_path / "link", "make", "help").stderr


def test_an_environment_with_blanks_in_its_path_is_refused(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "plain")
    done = run(folder, "make", "install", VENV=f"{tmp_path}/my env")
    assert 'VENV ("' in done.stderr
    assert not list(tmp_path.glob("my*"))


@pytest.mark.parametrize("name", ["My project", "after ", "a$HOME", "a'b", "a%b", "日本"])
def test_docker_run_works_where_make_refuses(tmp_path: Path, name: str) -> None:
    """DVC starts each stage with docker/run, in a path that may have blanks."""
    folder = checkout(tmp_path / name)
    done = run(folder, "docker/run", "--no-log", "python", "-m", "stages.train")
    assert (done.returncode, done.stdout) == (0, f"{folder}/.venv/bin/python -m stages.train\n")


def test_docker_run_refuses_an_environment_that_path_cannot_hold(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "a:b")
    done = run(folder, "docker/run", "--no-log", "python", "-c", "print('another Python')")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"docker/run: {folder}/.venv: the path of the environment has a `:`; move it\n"
