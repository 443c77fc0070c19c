"""Code deps: which files below stages/ each stage runs, by the imports, written into dvc.yaml.

A stage depends on its own package as a folder, and on each module of stages/common that it imports, directly or
through others.
"""

import ast
import re
from pathlib import Path

STAGES = Path("stages")
DEPS = re.compile(
    r"(?P<head>^  (?P<stage>\w+):(?: *#.*)?\n(?:    .*\n|\n)*?    deps:(?: *#.*)?\n)(?P<deps>(?:      .*\n)+)",
    re.MULTILINE,
)
DEP = re.compile(r"(?P<comments>(?: *#.*\n)*) *- (?P<path>\S+).*\n")  # with the comments above it and behind it


def list_code_deps(stage: str) -> list[str]:
    """List the code deps of a stage: `stages/NAME`, then the modules of stages/common, sorted."""
    found: set[Path] = set()
    waiting = sorted((STAGES / stage).rglob("*.py"))
    while waiting:
        new = imported_modules(waiting.pop()) - found
        found |= new
        waiting += new
    common = {path.as_posix() for path in found if path.parent == STAGES / "common"}
    return [(STAGES / stage).as_posix(), *sorted(common)]


def imported_modules(file: Path) -> set[Path]:
    """Find the modules below stages/ that a file imports itself, also inside functions and under TYPE_CHECKING."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    paths = (Path(*module.split(".")).with_suffix(".py") for module in modules if module.startswith("stages."))
    return {path for path in paths if path.exists()}


def fill_code_deps(text: str) -> str:
    """Return the text of dvc.yaml with the code deps that the imports ask for. Other deps and comments stay."""

    def filled(match: re.Match[str]) -> str:
        written = {dep["path"]: dep[0] for dep in DEP.finditer(match["deps"])}
        last_comments = DEP.sub("", match["deps"])
        others = [path for path in written if not path.startswith("stages/")]
        paths = sorted([*others, *list_code_deps(match["stage"])])
        return match["head"] + "".join(written.get(path, f"      - {path}\n") for path in paths) + last_comments

    return DEPS.sub(filled, text)
