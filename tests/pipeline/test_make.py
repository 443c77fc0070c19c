"""What users type after `make`: every text reaches its tool whole, and nothing in it is run by make or by a shell.

Targets and variables come from the Makefile, so that a new one is tested, too. The recipes are the real ones; the
programs in the environment print their arguments.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import checkout, run

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
RECIPES: dict[str, str] = dict(re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE))
HELP: dict[str, str] = dict(re.findall(r"^([a-z-]+):.*## (.*)", MAKEFILE, re.MULTILINE))
# Variables that no recipe hands on: which environment and programs to use.
OF_THE_MACHINE = {"PYTHON", "RUNTIME", "VENV", "VLLM_VENV"}
# What writes the file `marker` where make or a shell reads it, and what either of them changes.
TEXTS = {
    "all": "cost $5 $$ $(shell touch marker) ${shell touch marker} `touch marker` $(touch marker); touch marker &\n"
    "\ttouch marker\ntouch marker | > marker < x ' \" \\ * ~ ! % , ) ( é\u2028 # end",
    "make": "$(shell touch marker)",
    "shell": "$(touch marker)",
    "quote": "'; touch marker; '",
    "quotes": '"; touch marker; "',
    "recipe line": "x\n\ttouch marker",
    "dollar": "cost $5",
    "-h": "-h",
    "--output": "--output=marker",
    "blanks": "two  blanks  ",
}


def handed_on(target: str, how: str) -> list[str]:
    """The variables that a recipe hands on as `given`, `plain` or `switch`."""
    return [
        name for names in re.findall(rf"\$\(call {how},([A-Z0-9_ ]+)\)", RECIPES[target]) for name in names.split()
    ]


def takes_args(target: str) -> bool:
    return "WITH_ARGS" in RECIPES[target] or "PYTEST" in RECIPES[target]


TYPED = [name for name in RECIPES if handed_on(name, "given") or handed_on(name, "plain")]
SWITCHES = [(name, switch) for name in RECIPES for switch in handed_on(name, "switch")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which every program that a recipe starts writes down its arguments. with_args is the real one."""
    folder = checkout(tmp_path_factory.mktemp("typed") / "checkout")
    binaries = folder / ".venv" / "bin"
    record = [
        f"#!{sys.executable}",
        "import json, os, sys",
        "if sys.argv[1:3] == ['-m', 'tools.with_args']:",
        f"    os.environ['PYTHONPATH'] = {str(ROOT)!r}",
        f"    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])",
        f"with open({str(folder / 'arguments.jsonl')!r}, 'a', encoding='utf-8') as file:",
        "    print(json.dumps(sys.argv[1:]), file=file)",
    ]
    for name in sorted({"python", "docker", *re.findall(r"\$\(BIN\)/(\w+)", MAKEFILE)}):
        (binaries / name).write_text("\n".join(record) + "\n", encoding="utf-8")
        (binaries / name).chmod(0o755)
    made = [
        ".venv/.uv",
        ".venv/.pipeline",
        ".venv/.dev",
        ".serve/vllm/.made",
        ".serve/webui/.made",
        ".serve/site/.made",
    ]
    for name in [*made, *re.findall(r"requirements/[\w./-]+\.(?:txt|toml)", MAKEFILE)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name in made:  # newer than what they are made from
        (folder / name).touch()
    return folder


def make(folder: Path, *words: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Run make, and give the arguments of every program that it started. No marker may appear."""
    record = folder / "arguments.jsonl"
    for left in (record, *folder.rglob("*marker*")):
        left.unlink(missing_ok=True)
    path = f"{folder}/.venv/bin:/usr/bin:/bin"
    done = run(folder, "make", "--no-print-directory", *words, PATH=path, **environment)
    assert not list(folder.rglob("*marker*")), done.stderr
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    return done, [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("target", TYPED)
def test_a_tool_gets_the_text_that_was_typed(project: Path, target: str, text: str) -> None:
    options, words = (handed_on(target, how) for how in ("given", "plain"))
    names = [name for name in (*options, *words) if (target, name) != ("serve", "RUNTIME")]
    done, started = make(project, target, *(f"{name}={TEXTS[text]}" for name in names))
    assert done.returncode == 0, done.stderr
    expected = [f"--{name.lower()}={TEXTS[text]}" for name in options if name in names]
    (given,) = started
    expected += ["--", *(TEXTS[text] for _ in words)] if words else []
    assert given[-len(expected) :] == expected
    assert len(given) == len(expected) + (5 if target == "tensorboard" else 2)  # -m MODULE


@pytest.mark.slow
@pytest.mark.parametrize("target", TYPED)
def test_an_empty_text_is_as_good_as_none_and_the_environment_is_not_read(project: Path, target: str) -> None:
    names = [*handed_on(target, "given"), *handed_on(target, "plain")]
    _, alone = make(project, target)
    _, empty = make(project, target, *(f"{name}=" for name in names))
    _, inherited = make(project, target, **dict.fromkeys(names, "local"))
    assert empty == inherited == alone


@pytest.mark.slow
@pytest.mark.parametrize(("target", "name"), SWITCHES)
def test_a_switch_is_on_or_off(project: Path, target: str, name: str) -> None:
    option = name.lower() if name == "COVERAGE" else f"--{name.lower()}"  # coverage runs pytest
    assert option in make(project, target, f"{name}=1")[1][0]
    assert option not in make(project, target, f"{name}=0")[1][0]
    for text in (*TEXTS.values(), "yes"):
        done, started = make(project, target, f"{name}={text}")
        assert (done.returncode, started) == (2, []), text
        assert f"*** {name}={text}: must be 1, or 0 for the default" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("target", [name for name in RECIPES if takes_args(name)])
def test_the_words_of_args_are_split_and_no_more(project: Path, target: str, text: str) -> None:
    quoted = TEXTS[text].replace("\\", "\\\\").replace('"', '\\"')
    done, started = make(project, target, f"ARGS=-k \"{quoted}\"  tests/a\\ b '$5'")
    assert done.returncode == 0, done.stderr
    assert started[0][-4:] == ["-k", TEXTS[text], "tests/a b", "$5"]
    assert make(project, target, ARGS="-k 'a or b'")[1][0][-2:] == ["-k", "a or b"]


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_workers_are_one_option(project: Path, text: str) -> None:
    for typed, environment in (((f"WORKERS={TEXTS[text]}",), {}), ((), {"WORKERS": TEXTS[text]})):
        _, started = make(project, "test", *typed, **environment)
        assert started == [["-m", "pytest", f"--numprocesses={TEXTS[text]}"]]


@pytest.mark.slow
@pytest.mark.parametrize("typed", [True, False], ids=["typed", "environment"])
@pytest.mark.parametrize("text", TEXTS)
def test_what_says_which_programs_to_use_is_refused_or_is_one_program(project: Path, text: str, typed: bool) -> None:
    def with_variable(target: str, name: str) -> tuple["subprocess.CompletedProcess[str]", list[list[str]]]:
        return (
            make(project, target, f"{name}={TEXTS[text]}") if typed else make(project, target, **{name: TEXTS[text]})
        )

    if not text.startswith("-"):  # a path like others
        done, started = with_variable("gate", "VENV")
        assert (done.returncode, started) == (2, [])
        assert 'VENV ("' in done.stderr
    done, started = with_variable("serve", "RUNTIME")
    assert (done.returncode, started) == (2, [])
    assert f"*** RUNTIME={TEXTS[text]}: must be local or docker" in done.stderr
    assert len(with_variable("serve", "VLLM_VENV")[1]) == 1
    (project / ".venv" / ".uv").rename(project / "uv")
    try:
        done, started = with_variable("install", "PYTHON")
    finally:
        (project / "uv").rename(project / ".venv" / ".uv")
    assert (done.returncode, started) == (2, [])
    assert "will not do: Python 3.11 to 3.13 is needed" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("target", RECIPES)
def test_a_variable_that_no_recipe_reads_is_text_too(project: Path, target: str) -> None:
    make(project, target, f"ANOTHER={TEXTS['all']}", f"MORE={TEXTS['make']}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BIN", "UV_PIP", "given"])
def test_the_makefile_keeps_its_own_variables(project: Path, name: str) -> None:
    done, started = make(project, "gate", f"{name}=x; touch marker;")
    assert (done.returncode, started) == (2, [])
    assert f"*** {name}: a variable of the Makefile itself; `make help` lists those to set" in done.stderr


def test_every_variable_goes_through_one_of_the_ways_above() -> None:
    """What a recipe reads by make is the Makefile's own, and so is checked; what it reads by a shell is in quotes."""
    own = set(re.findall(r"^(?:override |export )*([\w-]+) *(?:[:?]?=)", MAKEFILE, re.MULTILINE))
    lists = re.search(r"override OWN := ((?:.*\\\n)*.*)", MAKEFILE)
    assert lists
    assert set(lists[1].replace("\\", "").split()) == own - {"TYPED", "PYTHON", "VENV", "WORKERS"}
    code = re.sub(r"^#.*|##.*", "", MAKEFILE, flags=re.MULTILINE)
    read = set(re.findall(r"\$[({]([A-Z][A-Z0-9_]*)[)}]", code))
    assert read - own == {"CURDIR", "MAKECMDGOALS", "RUNTIME", "VLLM_VENV"}
    recipes = "".join(line for line in code.splitlines(keepends=True) if line.startswith("\t"))
    assert not OF_THE_MACHINE - {"VENV"} & set(re.findall(r"\$[({]([A-Z][A-Z0-9_]*)[)}]", recipes))
    assert set(re.findall(r"(.)\$\$\w", recipes)) <= {'"', ":"}


@pytest.mark.parametrize("target", HELP)
def test_the_help_names_what_the_recipe_takes(target: str) -> None:
    if target in RECIPES:
        taken = {name for how in ("given", "plain", "switch") for name in handed_on(target, how)}
        taken |= {"ARGS", "WORKERS"} if takes_args(target) else set()
        named = set(re.findall(r"\b([A-Z]+[0-9]*)=", HELP[target].partition("make ")[0]))
        assert named - OF_THE_MACHINE <= taken
        assert target == "import" or taken - named <= {"ARGS", "WORKERS"}


@pytest.mark.slow
def test_an_open_quote_in_args_is_one_line(project: Path) -> None:
    done, started = make(project, "test", "ARGS=-k 'a or b")
    assert started == []
    assert "Error: ARGS=-k 'a or b: no closing quotation; quote it as in ARGS=\"-k 'one or two'\"" in done.stderr
