"""Sources: the files of data/raw that preprocess reads, with the format of each."""

from fnmatch import fnmatch
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import click

from stages.preprocess.formats import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, detect_format
from stages.preprocess.params import FileParams, PreprocessParams
from stages.preprocess.readers import KINDS, file_kind, read_rows

ROWS_TO_TRY = 1000  # the first JSON object among so many rows shows the format


class Source(NamedTuple):
    """A file of raw rows and how to read it. `number` is its position among the files that are read."""

    number: int
    path: Path
    format: str
    params: FileParams


def data_files(folder: Path, *, required: bool = True) -> list[Path]:
    """List the data files of `folder`, sorted. Hidden files, `*.dvc` files and README.md are not data files.

    Raises:
        click.ClickException: the folder has no data files although they are `required`, or a file has an
            unsupported type or a name that cannot be printed.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    found = [path for path in files if path.name[0] != "." and path.suffix != ".dvc" and path.name != "README.md"]
    if required and not found:
        raise click.ClickException(f"{folder}: no data files; put {', '.join(KINDS)} files in it")
    for path in found:
        if not path.name.isprintable():
            raise click.ClickException(f"{folder}: {path.name!a}: the name cannot be printed; rename the file")
        file_kind(path)
    return found


def find_sources(folder: Path, config: PreprocessParams) -> list[Source]:
    """List the files to read. Where the params name no format, it follows from the columns of the first row.

    Raises:
        click.ClickException: a pattern in the params fits no file, or the format of a file is unknown.
    """
    found = data_files(folder)
    for key, patterns in (("read", config.read), ("files", config.files)):
        for pattern in patterns:
            if not any(fnmatch(path.name, pattern) for path in found):
                raise click.ClickException(
                    f"preprocess.{key}: {pattern}: no such file in {folder}; fix or delete the pattern"
                )
    read = [path for path in found if any(fnmatch(path.name, pattern) for pattern in config.read)]
    if not read:
        raise click.ClickException(f"preprocess.read: empty; name the files of {folder} to read, or ['*'] for all")
    return [_source(number, path, config.files) for number, path in enumerate(read)]


def _source(number: int, path: Path, by_pattern: dict[str, FileParams]) -> Source:
    params = next((params for pattern, params in by_pattern.items() if fnmatch(path.name, pattern)), FileParams())
    known = set(
        chain.from_iterable(chain(REQUIRED_COLUMNS[name], OPTIONAL_COLUMNS[name]) for name in REQUIRED_COLUMNS)
    )
    for name in params.columns:
        if name not in known:
            message = f"preprocess.files: {path.name}: columns: {name}: unknown; known are {', '.join(sorted(known))}"
            raise click.ClickException(message)
    rows = islice(read_rows(path, params.sample_by), ROWS_TO_TRY)
    first = next((row.values for row in rows if isinstance(row.values, dict)), {})
    found = params.format or detect_format(first, params.columns)
    if found is None:
        columns = ", ".join(name if name.isprintable() else ascii(name) for name in sorted(first)) or "none"
        raise click.ClickException(
            f"{path}: unknown format (columns: {columns}); name the columns in preprocess.files, see docs/data.md"
        )
    return Source(number, path, found, params)
