"""Sources: the files of data/raw that preprocess reads, with the format and the columns of each."""

import difflib
import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import click

from stages.preprocess.columns import (
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    Reading,
    Sample,
    detect_format,
    guess_columns,
    match_columns,
    missing_answer,
)
from stages.preprocess.opening import require_file, require_inside
from stages.preprocess.params import FileParams, PreprocessParams
from stages.preprocess.readers import KINDS, file_kind, read_rows

ROWS_TO_TRY = 1000  # the rows that show the format and the columns of a file


class UnknownFormat(click.ClickException):
    """The columns of a file are those of no format, or have no answer.

    Attributes:
        problem: the file and its columns, without what to do.
        columns: our column to the file's, as preprocess.files may name them; COLUMN where it is not clear.
    """

    def __init__(self, path: Path, name: str, present: list[str], answer: str | None) -> None:
        """Name the columns, and what to write into preprocess.files."""
        guess = guess_columns(present)
        wanted = {answer: "completion"} if answer else {"prompt": "prompt", "completion": "completion"}
        self.columns = {ours: guess.get(column, "COLUMN") for ours, column in wanted.items()}
        found = ", ".join(map(shown, sorted(present))) or "none"
        self.problem = f"{path}: {'no column with the answer' if answer else 'unknown format'} (columns: {found})"
        named = ", ".join(f"{ours}: {shown(column)}" for ours, column in self.columns.items())
        super().__init__(
            f"{self.problem}; say which is which in preprocess.files, such as "
            f"{{'{name}': {{columns: {{{named}}}}}}}, see docs/data.md"
        )


class Source(NamedTuple):
    """A file of raw rows and how to read it.

    Attributes:
        number: its position among the files that are read.
        folder: data/raw.
        path: the file.
        name: its path in the folder, with `/`; a row id is this name and the row's line.
        reading: format and columns.
        params: its settings in preprocess.files.
    """

    number: int
    folder: Path
    path: Path
    name: str
    reading: Reading
    params: FileParams


def data_files(folder: Path, *, required: bool = True) -> list[Path]:
    """List the data files of `folder` and of the folders in it, sorted by path.

    Hidden files and folders, `*.dvc` files and README.md are not data files.

    Raises:
        click.ClickException: the folder has no data files although they are `required`, a file has an unsupported
            type or a name that cannot be printed or is no file, a folder cannot be read, or a link leads out of the
            folder or to nothing.
    """
    if folder.is_symlink():
        raise click.ClickException(
            f"{folder}: a link to {folder.readlink()}, whose files would be missing elsewhere; make it a folder"
        )
    found = []
    for path in sorted(_entries(folder)):
        if path.suffix == ".dvc" or path.name == "README.md":
            continue
        name = path.relative_to(folder).as_posix()
        if not name.isprintable():
            raise click.ClickException(f"{folder}: {name!a}: the name cannot be printed; rename the file")
        try:
            if path.is_symlink():
                _check_link(path, folder)
            mode = path.stat().st_mode
        except OSError as error:
            raise _unreadable(path, error) from None
        if not stat.S_ISDIR(mode):
            file_kind(path)
            require_file(path, mode)
            found.append(path)
    if required and not found:
        raise click.ClickException(f"{folder}: no data files; put {', '.join(KINDS)} files in it")
    return found


def _entries(folder: Path) -> Iterator[Path]:
    """Yield what is below a folder, if it exists; nothing hidden."""

    def refuse(error: OSError) -> None:
        if Path(error.filename) != folder or not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise _unreadable(error.filename, error)

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in (*folders, *names) if not name.startswith("."))


def _unreadable(path: Path | str, error: OSError) -> click.ClickException:
    return click.ClickException(f"{path}: cannot be read ({error.strerror}); check its owner")


def _check_link(path: Path, folder: Path) -> None:
    """Refuse a link to a folder, to nothing or out of the folder."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # nothing there, or links in a circle
        raise click.ClickException(
            f"{path}: a link to {path.readlink()}, which does not exist; fix or remove the link"
        ) from None
    if target.is_dir():
        raise click.ClickException(f"{path}: a link to a folder, which is not followed; move the files here")
    require_inside(path, target, folder)


def find_sources(folder: Path, config: PreprocessParams) -> list[Source]:
    """List the files to read. Where the params name no format, it follows from the columns of the first rows.

    Raises:
        click.ClickException: a pattern in the params fits no file, the format of a file is unknown, or a column that
            the params name is in no row.
    """
    found = {path: path.relative_to(folder).as_posix() for path in data_files(folder)}
    for key, patterns in (("read", config.read), ("files", config.files)):
        for pattern in patterns:
            if not any(_fits(name, pattern) for name in found.values()):
                raise click.ClickException(
                    f"preprocess.{key}: {pattern}: no such file in {folder}; fix or delete the pattern"
                )
    read = {path: name for path, name in found.items() if any(_fits(name, pattern) for pattern in config.read)}
    if not read:
        raise click.ClickException(f"preprocess.read: empty; name the files of {folder} to read, or ['*'] for all")
    return [describe(number, folder, path, name, config.files) for number, (path, name) in enumerate(read.items())]


def file_params(name: str, by_pattern: dict[str, FileParams]) -> FileParams:
    """Return how to read a file: the settings of the first pattern in preprocess.files that fits its name."""
    return next((params for pattern, params in by_pattern.items() if _fits(name, pattern)), FileParams())


def _fits(name: str, pattern: str) -> bool:
    """Whether a pattern fits the path of a file in data/raw, or its last part."""
    return fnmatch(name, pattern) or fnmatch(name.rpartition("/")[2], pattern)


def describe(number: int, folder: Path, path: Path, name: str, by_pattern: dict[str, FileParams]) -> Source:
    """Find the format and the columns of a file; the arguments are as in `Source`, and in `file_params`.

    Raises:
        UnknownFormat: the columns are those of no format, or have no answer.
        click.ClickException: a column that the params name is unknown or in no row, or the file is not readable.
    """
    params = file_params(name, by_pattern)
    where = f"preprocess.files: {name}: columns"
    known = {
        column for columns in (REQUIRED_COLUMNS, OPTIONAL_COLUMNS) for part in columns.values() for column in part
    }
    for column in params.columns:
        if column not in known:
            raise click.ClickException(f"{where}: {column}: unknown; known are {', '.join(sorted(known))}")
    sample = Sample(row.values for row in islice(read_rows(path, params, folder=folder), ROWS_TO_TRY))
    present = sample.present
    wanted = params.format or detect_format(sample.first, params.columns) or detect_format(present, params.columns)
    reading = match_columns(present, params.columns, wanted) if wanted else None
    answer = missing_answer(present, params.columns, wanted)
    if reading is None or answer:
        raise UnknownFormat(path, name, present, answer)
    for column, actual in params.columns.items():
        if column not in reading.columns:
            raise click.ClickException(f"{where}: {column}: the format {reading.format} does not read it; delete it")
        if actual not in present and (sample.size < ROWS_TO_TRY or file_kind(path) in (".csv", ".tsv", ".parquet")):
            raise click.ClickException(absent_column(name, column, actual, reading))
    reading.awaited = set(params.columns.values()) - set(present)
    reading.numbers = sample.mostly_numbers(reading)
    return Source(number, folder, path, name, reading, params)


def shown(column: str) -> str:
    """Write a column name so that it can be printed."""
    return column if column.isprintable() else ascii(column)


def absent_column(name: str, column: str, actual: str, reading: Reading) -> str:
    """Say that no row of a file has a column that the params name."""
    close = difflib.get_close_matches(actual, [*reading.unread, *reading.present], n=1)
    return (
        f"preprocess.files: {name}: columns: {column}: no row has a column {actual}"
        f"{f'; did you mean {close[0]}?' if close else '; correct the name'}"
    )
