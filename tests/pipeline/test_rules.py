"""The rules of the house (docs/architecture.md): who imports whom, what a file holds, and which words are retired."""

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FILES = {
    path: path.relative_to(ROOT).as_posix() for top in ("stages", "tools") for path in (ROOT / top).rglob("*.py")
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for path, name in sorted(FILES.items())}
STAGES = sorted(path.parent.name for path in (ROOT / "stages").glob("*/__main__.py"))
# Module names that are taken, and that we use all the same: they are what the user types.
ALLOWED = {"tools/trace.py": "`make trace`"}
PAGES = ("*.py", "*.md", "*.yaml", "*.yml", "*.toml", "*.html", "*.js", "*.css", "*.conf", "*.jinja", "*.env")


class Import(NamedTuple):
    """One imported name: the module `name` comes from (`stages.common.files`), and what it is called here."""

    module: str
    name: str | None
    alias: str | None


def exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def imports(tree: ast.AST) -> Iterator[Import]:
    """All imports of a file, also those in functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, alias.asname)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                is_module = module.startswith(("stages", "tools")) and exists(inner)
                yield Import(inner, None, alias.asname) if is_module else Import(module, alias.name, alias.asname)


IMPORTS = {file: list(imports(tree)) for file, tree in TREES.items()}


def ours(file: str) -> set[str]:
    """The modules of stages and tools that a file imports."""
    return {entry.module for entry in IMPORTS[file] if re.match(r"(stages|tools)\b", entry.module)}


def module(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def package(name: str) -> str:
    """The stage of a module, `common`, or `tools`."""
    top, _, rest = name.partition(".")
    return rest.partition(".")[0] if top == "stages" else top


def report(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


def test_a_stage_imports_itself_common_and_libraries_and_common_imports_no_stage() -> None:
    report(
        [
            f"{file} imports {name}: what two stages need lies in stages/common, what one needs lies in that stage"
            for file in TREES
            if file.startswith("stages/")
            for name in sorted(ours(file))
            if package(name) not in {package(module(file)), "common"}
        ]
    )


def test_imports_spell_the_whole_name() -> None:
    # `import` is a keyword: no statement can name the package of `make import`.
    files = [file for file in TREES if not file.startswith("tools/import/")]
    relative = [file for file in files if any(entry.module.startswith(".") for entry in IMPORTS[file])]
    report([f"{file}: relative import; write `from stages.NAME.MODULE import ...`" for file in relative])


def test_a_module_of_common_serves_two_stages() -> None:
    """A stage counts that imports the module itself, or another module of common that serves two stages."""
    common = [module(file) for file in TREES if file.startswith("stages/common/") and "__init__" not in file]
    importers = {name: {module(file) for file in TREES if name in ours(file)} for name in common}
    users = {name: {package(file) for file in importers[name]} & set(STAGES) for name in common}
    for _ in common:
        for name in common:
            through = [users[other] for other in importers[name] & set(common) if len(users[other]) > 1]
            users[name] = users[name].union(*through)
    report(
        [
            f"{name} serves {', '.join(sorted(users[name])) or 'no stage'}: move it there, or into tools"
            for name in common
            if len(users[name]) < 2
        ]
    )


def test_an_init_file_is_one_docstring() -> None:
    report(
        [
            f"{file}: holds more than a docstring; move the code to a module"
            for file, tree in TREES.items()
            if file.endswith("__init__.py") and not (ast.get_docstring(tree) and len(tree.body) == 1)
        ]
    )


def test_only_the_docs_generator_imports_an_entry_file() -> None:
    named = {
        file: [
            text.value for text in ast.walk(tree) if isinstance(text, ast.Constant) and isinstance(text.value, str)
        ]
        for file, tree in TREES.items()
    }
    report(
        [
            f"{file} imports a __main__: move what it needs from there to a module beside it"
            for file in TREES
            if not file.startswith(
                ("tools/docs", "tools/bench/imports")
            )  # the latter measures how long they take to import
            and any(re.search(r"\.__main__$", name) for name in (*ours(file), *named[file]))
        ]
    )


def test_no_import_is_circular() -> None:
    graph = {module(file): ours(file) for file in TREES}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        report([f"{' imports '.join(reversed(error.args[1]))}: move what both need to a third module"])


def test_our_modules_keep_their_names() -> None:
    report(
        [
            f"{file}: `{entry.module} as {entry.alias}`; import functions by name where the module's name is taken"
            for file in TREES
            for entry in IMPORTS[file]
            if entry.alias and not entry.name and entry.module.startswith(("stages.", "tools."))
        ]
    )


def test_no_module_is_called_like_one_of_python_or_a_library() -> None:
    libraries = {entry.module.partition(".")[0] for entries in IMPORTS.values() for entry in entries}
    taken = (libraries | set(sys.stdlib_module_names)) - {"stages", "tools", "__main__"}
    report(
        [
            f"{file}: a module of Python or of a library that we use has this name; choose another"
            for file in TREES
            if Path(file).stem in taken and file not in ALLOWED
        ]
    )


def test_a_stage_and_common_share_no_module_name_but_params() -> None:
    """Nor do a singular and its plural count as two names."""
    common = {Path(file).stem.removesuffix("s") for file in TREES if file.startswith("stages/common/")}
    report(
        [
            f"{file}: stages/common has a module of this name; choose another"
            for file in TREES
            if re.match(rf"stages/({'|'.join(STAGES)})/", file)
            and Path(file).stem.removesuffix("s") in common - {"param", "__init__"}
        ]
    )


def test_a_module_of_a_stage_has_at_most_250_lines_and_a_test_file_400() -> None:
    limits = {"stages": 250, "tests": 400}
    report(
        [
            f"{path.relative_to(ROOT)}: more than {limit} lines; split it by what it does"
            for top, limit in limits.items()
            for path in sorted((ROOT / top).rglob("*.py"))
            if len(path.read_text(encoding="utf-8").splitlines()) > limit
        ]
    )


def test_the_main_of_a_stage_has_at_most_50_lines() -> None:
    report(
        [
            f"{file}: `main` has more than 50 lines; its work belongs in a module beside it"
            for file, tree in TREES.items()
            if re.fullmatch(r"stages/\w+/__main__\.py", file)
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
            and node.name == "main"
            and (node.end_lineno or 0) - node.lineno >= 50
        ]
    )


def test_the_classes_of_params_are_in_params() -> None:
    found = {
        file: {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and any("Section" in ast.unparse(base) for base in node.bases)
        }
        for file, tree in TREES.items()
        if file.startswith("stages/")
    }
    report(
        [
            f"{file}: {', '.join(sorted(names))} is a section of params.yaml; move it to params.py of the stage"
            for file, names in found.items()
            if names and Path(file).name != "params.py"
        ]
    )


def test_whether_there_is_a_gpu_is_found_out_in_one_place() -> None:
    report(
        [
            f"{file}: asks for a GPU itself; stages/common/device.py knows"
            for file, tree in TREES.items()
            if file != "stages/common/device.py"
            and any(
                isinstance(node, ast.Call) and ast.unparse(node.func).endswith("cuda.is_available")
                for node in ast.walk(tree)
            )
        ]
    )


def retired() -> list[str]:
    """First column of the table in docs/glossary.md, section "Retired words": words and phrases, commas between."""
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    section = text.partition("## Retired words")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| *([^|]+?) *\|", section, re.MULTILINE)[2:]
    return [word.strip(" `") for cell in cells for word in cell.split(",")]


def test_no_retired_word_is_used() -> None:
    words = retired()
    assert words, "docs/glossary.md: no table in section `Retired words`"
    either = "|".join(r"[\s_-]+".join(map(re.escape, word.split())) for word in words)
    pattern = re.compile(rf"(?<![a-z])({either})(?![a-z])", re.IGNORECASE)
    folders = [ROOT / top for top in ("stages", "tools", "tests", "docs", "docker", "recipes", ".github")]
    pages = [path for folder in folders for kind in PAGES for path in folder.rglob(kind)]
    pages += [path for kind in PAGES for path in ROOT.glob(kind)]
    pages += [ROOT / name for name in ("Makefile", "docker/run", "docker/Dockerfile", ".ci/run", ".ci/engine")]
    exempt = {ROOT / "docs" / "glossary.md", ROOT / "CHANGELOG.md"}
    report(
        [
            f"{path.relative_to(ROOT)}:{number}: `{found[0]}` is retired; docs/glossary.md has the word to use"
            for path in sorted(set(pages) - exempt)
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            for found in [pattern.search(line)]
            if found
        ]
    )
