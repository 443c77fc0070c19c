"""git and dvc get no text of a user as an option: it is a resolved commit, or it comes after `--`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for top in ("stages", "tools", "docker") for path in (ROOT / top).rglob("*.py"))
FILES.append(ROOT / "docker" / "run")
ENDS = ("--", "--end-of-options")


def calls(tree: ast.AST) -> Iterator[tuple[ast.AST, list[ast.expr]]]:
    """Each command line that starts with git or dvc, and each call of `git`, with the function that it stands in."""
    functions: list[ast.AST] = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in functions or [tree]:
        for node in ast.walk(function):
            if isinstance(node, ast.List | ast.Tuple | ast.Call):
                words = node.args if isinstance(node, ast.Call) else node.elts
                values = [word.value if isinstance(word, ast.Constant) else None for word in words]
                start = next((values.index(name) + 1 for name in ("git", "dvc") if name in values), None)
                name = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
                if start is not None and name not in ("in", "get"):
                    yield function, words[start:]
                elif name in ("git", "_run"):
                    yield function, words


def is_safe(word: ast.expr, before: ast.expr | None, commits: set[str]) -> bool:
    """Whether a word cannot be taken for an option, or is not of a user."""
    if isinstance(word, ast.Starred):
        word = word.value
    if isinstance(word, ast.JoinedStr):
        first = word.values[0]
        return isinstance(first, ast.Constant) or (
            isinstance(first, ast.FormattedValue) and is_commit(first, commits)
        )
    after_e = isinstance(before, ast.Constant) and before.value == "-e"
    return isinstance(word, ast.Constant) or after_e or is_commit(word, commits)


def is_commit(word: ast.expr, commits: set[str]) -> bool:
    return ast.unparse(word.value if isinstance(word, ast.FormattedValue) else word) in commits


def unsafe(path: Path) -> list[str]:
    problems = []
    for function, words in calls(ast.parse(path.read_text(encoding="utf-8"))):
        # The hashes of commits, by their types, and words that repository.py itself chose.
        commits = verified(function) | ({"walk", "arguments"} if path.name == "repository.py" else set())
        if isinstance(function, ast.FunctionDef):
            commits |= {one.arg for one in function.args.args if "Commit" in ast.unparse(one.annotation or one)}
        ended = False
        for number, word in enumerate(words):
            ended = ended or (isinstance(word, ast.Constant) and word.value in ENDS)
            if not ended and not is_safe(word, words[number - 1] if number else None, commits):
                problems.append(f"{path.relative_to(ROOT)}:{word.lineno}: {ast.unparse(word)}")
    return problems


def verified(function: ast.AST) -> set[str]:
    """Variables of a function that hold the hash of a commit."""
    assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
    makers = ("'rev-parse'", "Commit(", "resolve(")
    made = [node for node in assigned if any(maker in ast.unparse(node.value) for maker in makers)]
    return {ast.unparse(target) for node in made for target in node.targets}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_user_names_is_a_commit_or_comes_after_dashes(path: Path) -> None:
    assert unsafe(path) == []


@pytest.mark.parametrize(
    "line",
    [
        'def f(rev): git("log", rev)',
        'def f(rev): git("show", f"{rev}:./x")',
        'def f(rev): subprocess.run(["git", "log", *rev])',
        'def f(path): subprocess.run([python, "-m", "dvc", "add", path])',
        'def f(rev, commit: Commit): git("log", commit, rev, "--", "x")',
    ],
)
def test_the_test_finds_what_it_looks_for(tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "module.py").write_text(line, encoding="utf-8")
    assert len(unsafe(tmp_path / "module.py")) == 1
