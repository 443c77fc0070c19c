"""Import rows into data/raw from the model hub, an address or a file, and record where they come from.

SOURCE is a dataset of the hub (`owner/name`, with its full commit hash as --revision), an https:// address, or a
file. No code of a dataset is ever run. The command writes data/raw/NAME, tracked by DVC, and data/NAME.dvc, which
records source, revision, licence and number of rows. A file is refused if its columns are those of no format, until
--columns says which is which: that goes into preprocess.files of params.yaml. Run it with `make import SOURCE=...`,
or with `python -m tools.import`.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from stages.common import files
from stages.preprocess.readers import KINDS, SUFFIXES
from tools.common.project import PARAMS

# Relative, as `import` is a keyword, and no statement can name this package.
from .columns import check_format, parse_columns, with_columns
from .dvc_file import find_earlier, is_unchanged, path_of, track
from .samples import count_rows, draw_sample, sample_size
from .sources import find_source

FOLDER = Path("data/raw")


@click.command(help=__doc__)
@click.argument("source", default="")
@click.option("--revision", help="Hub: the full commit hash, 40 hex digits.")
@click.option("--file", help="Hub: which data file; needed where there are several.")
@click.option("--sha256", help="The sha256 that the source must have.")
@click.option("--name", help="File name in data/raw, if not that of the source.")
@click.option("--licence", help="Licence of the rows, if not that of the hub's dataset card.")
@click.option("--limit", help="Draw a sample of so many rows, such as 32 or 2k, into STEM-N.jsonl.")
@click.option("--seed", type=int, default=7, show_default=True, help="Seed of the sample.")
@click.option("--columns", help="Which column is which, such as prompt=frage,completion=antwort.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def main(
    source: str,
    revision: str | None,
    file: str | None,
    sha256: str | None,
    name: str | None,
    licence: str | None,
    limit: str | None,
    seed: int,
    columns: str | None,
    force: bool,
) -> None:
    # Inputs
    wanted = sample_size(limit)
    origin = find_source(source, revision, file)
    target = FOLDER / file_name(name, origin.name, wanted)
    sample = {"limit": wanted, "seed": seed} if wanted else {}
    named = parse_columns(columns)
    settings = {PARAMS: with_columns(target.name, named)} if named else {}
    known = find_earlier(target, origin.facts | sample | ({"licence": licence} if licence else {}), force)

    with building(target) as folder:
        # Work
        path = folder / (origin.name if wanted else target.name)
        origin.fetch(path)
        digest = files.sha256(path)
        if sha256 and digest != sha256.lower():
            raise click.ClickException(
                f"{source}: its sha256 is {digest}, not {sha256.lower()}; check the source, or --sha256"
            )
        rows, unreadable = count_rows(path)
        if wanted:
            path = draw_sample(path, folder / "sample" / target.name, rows - unreadable, wanted, seed)
        check_format(path, target.name, named)

        # Outputs
        commit = origin.facts.get("revision", digest)
        if known and not force and is_unchanged(path, target, known["revision"] == commit):
            files.write_texts(settings)
            click.echo(f"{target}: already imported")
            return
        licence = licence or known.get("licence") or origin.licence or "unknown"
        facts = origin.facts | {"revision": commit, "licence": licence, "rows": wanted or rows} | sample
        desc = f"{wanted or rows} rows of {facts['source']}"
        track(path, target, {"desc": desc, "meta": facts})
        files.write_texts(settings)
    click.echo(f"{target}: {desc}, licence {licence}")
    if unreadable:
        left_out = "the sample leaves them out" if wanted else "preprocess drops and counts them"
        click.echo(f"{unreadable} rows are not readable; {left_out}")
    if licence == "unknown":
        click.echo("find out the licence, and record it with --licence and --force")
    if named:
        click.echo(f"{PARAMS}: preprocess.files: {target.name}: columns {columns}")
    click.echo(f"next: commit {path_of(target)}, share the rows with `dvc push`, then `make repro`")


def file_name(name: str | None, origin: str, limit: int) -> str:
    """Choose the name in data/raw. Its ending decides how preprocess reads the rows."""
    kinds = f"{', '.join(KINDS)}, each also .gz or .zst"
    suffix = next((suffix for suffix in SUFFIXES if origin.lower().endswith(suffix)), "")
    if not suffix and (limit or not name):
        problem = f"{origin or 'the address'}: the name does not end like that of a data file ({kinds})"
        raise click.ClickException(f"{problem}; {'import it without --limit' if limit else 'choose one with --name'}")
    if not name:
        return f"{origin[: -len(suffix)]}-{limit}.jsonl" if limit else origin
    if "/" in name or name.startswith(".") or not name.lower().endswith((".jsonl",) if limit else SUFFIXES):
        ending = ".jsonl, as samples do" if limit else f"one of {kinds}"
        raise click.ClickException(f"--name: {name!r}: must be a file name that ends in {ending}")
    return name


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Create a working folder beside `target`. It is removed in every case, and messages leave its name out."""
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
