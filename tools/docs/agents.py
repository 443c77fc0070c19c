"""AGENTS.md and llms.txt: the rules in short for coding agents, and the list of pages, both made from the pages."""

import re
from pathlib import Path

PAGES = (
    *(
        "architecture",
        "running",
        "params",
        "base",
        "chat-templates",
        "data",
        "preprocess",
        "train",
        "merge",
        "awq",
        "eval",
        "compare",
    ),
    *("report", "serve", "containers", "determinism", "import", "recipes", "lineage", "ci"),
    *("contributing", "debugging", "naming", "glossary"),
)


def agents() -> str:
    """Write AGENTS.md (https://agents.md): commands, rules, the loop, tests and bytes."""
    contributing, architecture = page("contributing"), page("architecture")
    summary = Path("README.md").read_text(encoding="utf-8").split("\n\n")[1]
    makefile = Path("Makefile").read_text(encoding="utf-8")
    commands = re.findall(r"^([a-z-]+):.*## (.*)", makefile, re.MULTILINE)
    parts = [
        "# Lockstep, for coding agents",
        "Written by `make docs` from docs/: change the pages, not this file.",
        summary,
        "## Commands\n\n" + "\n".join(f"- `make {name}`: {text}" for name, text in commands),
        f"## The loop\n\n{section(contributing, 'The loop')}",
        f"## Rules\n\n{section(architecture, 'Rules')}",
        f"## Tests\n\n{section(contributing, 'Tests')}",
        f"## Bytes\n\n{section(contributing, 'Bytes')}",
        "## Read on\n\n" + "\n".join(f"- [docs/{name}.md](docs/{name}.md): {title(name)}" for name in PAGES),
    ]
    return (
        "\n\n".join(re.sub(r"\]\((\w+\.md)", r"](docs/\1", part) if n else part for n, part in enumerate(parts))
        + "\n"
    )


def llms() -> str:
    """Write llms.txt (https://llmstxt.org): what the project is, and its pages."""
    summary = " ".join(Path("README.md").read_text(encoding="utf-8").split("\n\n")[1].split())
    lines = [f"- [{title(name)}](docs/{name}.md): {first_sentence(name)}" for name in PAGES]
    return f"# Lockstep\n\n> {summary}\n\n## Pages\n\n" + "\n".join(lines) + "\n"


def page(name: str) -> str:
    """Read a page of docs/."""
    return Path("docs", f"{name}.md").read_text(encoding="utf-8")


def title(name: str) -> str:
    """Read a page's title."""
    return page(name).splitlines()[0].removeprefix("# ")


def first_sentence(name: str) -> str:
    """Read the first sentence below a page's title."""
    return re.split(r"(?<=[.:]) ", " ".join(page(name).split("\n\n")[1].split()))[0]


def section(text: str, name: str) -> str:
    """Cut a section out of a page, without its heading."""
    found = re.search(rf"^## {name}\n\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, name
    return found[1].strip()
