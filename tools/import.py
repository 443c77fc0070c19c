"""Bring rows into data/raw from the model hub, an address or a file, and record where they came from.

SOURCE is a dataset of the hub (`owner/name`, with its full commit hash as --revision), an https:// address, or a
file. Nothing that comes with it is ever run. Writes data/raw/NAME, tracked by DVC, and data/NAME.dvc, which records
source, revision, licence and number of rows. Run it with `make import SOURCE=...`, or with `python -m tools.import`.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from stages.common import files, raw
from tools.common import records, samples, sources

FOLDER = Path("data/raw")


@click.command(help=__doc__)
@click.argument("source")
@click.option("--revision", help="Hub: the full commit hash, 40 hex digits.")
@click.option("--file", help="Hub: which data file; needed where there are several.")
@click.option("--sha256", help="What the source's bytes must hash to.")
@click.option("--name", help="File name in data/raw, if not the source's.")
@click.option("--licence", help="Licence of the rows, if not what the hub's dataset card says.")
@click.option("--limit", help="Take a sample of so many rows, such as 32 or 2k, as STEM-N.jsonl.")
@click.option("--seed", type=int, default=7, show_default=True, help="Which sample.")
@click.option("--force", is_flag=True, help="Take the place of an existing file.")
def main(
    source: str,
    revision: str | None,
    file: str | None,
    sha256: str | None,
    name: str | None,
    licence: str | None,
    limit: str | None,
    seed: int,
    force: bool,
) -> None:
    # Inputs
    wanted = samples.size(limit)
    origin = sources.find(source, revision, file)
    target = FOLDER / file_name(name, origin.name, wanted)
    sample = {"limit": wanted, "seed": seed} if wanted else {}
    known = records.read(target, origin.facts | sample | ({"licence": licence} if licence else {}), force)

    with building(target) as folder:
        # Work
        path = folder / (origin.name if wanted else target.name)
        origin.fetch(path)
        digest = files.sha256(path)
        if sha256 and digest != sha256.lower():
            raise click.ClickException(
                f"{source}: its sha256 is {digest}, not {sha256.lower()}; nothing was imported"
            )
        rows, flawed = samples.count(path)
        if wanted:
            path = samples.draw(path, folder / "sample" / target.name, rows - flawed, wanted, seed)

        # Outputs
        commit = origin.facts.get("revision", digest)
        if known and not force and records.is_kept(path, target, known["revision"] == commit):
            click.echo(f"{target}: already imported")
            return
        licence = licence or known.get("licence") or origin.licence or "unknown"
        facts = origin.facts | {"revision": commit, "licence": licence, "rows": wanted or rows} | sample
        desc = f"{wanted or rows} rows of {facts['source']}"
        records.track(path, target, {"desc": desc, "meta": facts})
    click.echo(f"{target}: {desc}, licence {licence}")
    if flawed:
        click.echo(f"{flawed} rows cannot be read; {'left out' if wanted else 'preprocess drops and counts them'}")
    if licence == "unknown":
        click.echo("look the licence up, and record it with --licence and --force")
    click.echo(f"next: commit {records.path_of(target)}, share the rows with `dvc push`, then `make repro`")


def file_name(name: str | None, origin: str, limit: int) -> str:
    """Choose the name in data/raw; its ending says how the rows are read."""
    kinds = f"{', '.join(raw.KINDS)}, each also .gz or .zst"
    suffix = next((suffix for suffix in raw.SUFFIXES if origin.lower().endswith(suffix)), "")
    if not suffix and (limit or not name):
        problem = f"{origin or 'the address'}: not named like a data file ({kinds})"
        raise click.ClickException(f"{problem}; {'import it without --limit' if limit else 'give a --name that is'}")
    if not name:
        return f"{origin[: -len(suffix)]}-{limit}.jsonl" if limit else origin
    if "/" in name or name.startswith(".") or not name.lower().endswith((".jsonl",) if limit else raw.SUFFIXES):
        ending = ".jsonl, as a sample does" if limit else f"one of {kinds}"
        raise click.ClickException(f"--name: {name!r} must be a file name that ends in {ending}")
    return name


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Give a folder beside `target` to work in. It vanishes in every case, and no message names it."""
    folder = target.with_name(f".{target.name}.building")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "sample").mkdir(parents=True)
        yield folder
    except click.ClickException as error:
        raise click.ClickException(error.message.replace(f"{folder}/", "")) from None
    except OSError as error:
        where = str(error.filename or target).replace(f"{folder}/", "")
        raise click.ClickException(
            f"{where}: {error.strerror or error}; check its owner and the free space"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
