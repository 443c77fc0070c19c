"""AGENTS.md and llms.txt: the rules in short for coding agents, and the list of pages, both made from the pages."""

import re
from pathlib import Path

# What README.md begins with, too; not read from there, as a project's README is its user's own.
SUMMARY = """\
Lockstep fine-tunes an open language model on your instruction data, quantises it, serves it behind a chat page, and
can prove how it got there: one commit names every byte of data, base model, adapter, merged model, AWQ model and
scores."""
# The pages by group, in the order of the pipeline: README.md, AGENTS.md, llms.txt and the site list them so.
GROUPS = {
    "Start": ("new-project", "recipes", "coming-from", "plan", "doctor", "running", "params"),
    "Stages": (
        *("base", "chat-templates", "data", "preprocess", "train", "merge", "awq", "eval", "compare", "report"),
        "metrics",
    ),
    "Around the stages": ("import", "report-page", "ci", "serve", "containers", "determinism", "lineage"),
    "When something is wrong": ("troubleshooting", "faq", "debugging"),
    "Change it": ("architecture", "contributing", "naming", "glossary"),
}
PAGES = tuple(name for names in GROUPS.values() for name in names)


def agents() -> str:
    """Write AGENTS.md (https://agents.md): commands, rules, the loop, tests and bytes."""
    contributing, architecture = page("contributing"), page("architecture")
    makefile = Path("Makefile").read_text(encoding="utf-8")
    commands = re.findall(r"^([a-z-]+):.*## (.*)", makefile, re.MULTILINE)
    parts = [
        "# Lockstep, for coding agents",
        "Written by `make docs` from docs/: change the pages, not this file.",
        SUMMARY,
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
    lines = [f"- [{title(name)}](docs/{name}.md): {first_sentence(name)}" for name in PAGES]
    return f"# Lockstep\n\n> {' '.join(SUMMARY.split())}\n\n## Pages\n\n" + "\n".join(lines) + "\n"


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
