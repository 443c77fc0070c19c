"""Parquet rows: read batch by batch, after another process has decoded the file within a bound of memory."""

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from stages.preprocess.limits import Unpacked, row_bytes
from stages.preprocess.params import FileParams
from stages.preprocess.row_values import RawRow

CHUNK = 1 << 20  # bytes
BATCH = 1000  # rows
LONGEST = 16  # rows of the greatest length that may be in memory at once, in pages and in a batch
# A page of some bytes can stand for gigabytes: a text once in its dictionary, and a million times in its rows. Arrow
# then ends the process or takes all memory. What else is wrong with the file, the stage itself meets and names.
CHECK = """
import resource, sys
import pyarrow
from pyarrow import parquet
pyarrow.set_memory_pool(pyarrow.system_memory_pool())
if sys.platform == "linux":
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = taken + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))
try:
    with open(int(sys.argv[1]), "rb") as file:
        opened = parquet.ParquetFile(file)
        packed = "dictionary<" in str(opened.schema_arrow)  # of these, a row becomes large only as Python's objects
        for batch in opened.iter_batches(int(sys.argv[3]), use_threads=False):
            for index in range(batch.num_rows if packed else 0):
                batch.slice(index, 1).to_pylist()
except MemoryError:  # Arrow's own is one, too
    sys.exit(3)
except (pyarrow.ArrowException, OSError, ValueError):
    pass
"""


def parquet_rows(path: Path, stream: BinaryIO, params: FileParams) -> Iterator[RawRow]:
    """Read rows of Parquet. A null field of a struct is left out: Arrow puts it where a row had no such key.

    Args:
        path: the file, for messages.
        stream: its content, unpacked.
        params: how to read it.

    Raises:
        click.ClickException: its rows take too much memory, or end the process that decodes them.
    """
    import pyarrow as pa
    from pyarrow import parquet

    packed = isinstance(stream, Unpacked)
    with tempfile.TemporaryFile() as file:  # Parquet is read from its end, and a compressed stream cannot seek
        if packed:
            while chunk := stream.read(CHUNK):
                file.write(chunk)
            file.flush()
        plain = file if packed else io.BufferedReader(cast(io.RawIOBase, stream))  # reads whole, as Arrow expects it
        _check(path, plain.fileno(), params)
        opened = parquet.ParquetFile(plain)
        nested = any(pa.types.is_nested(kind) for kind in opened.schema_arrow.types)
        number = 0
        for batch in opened.iter_batches(BATCH):
            for index in range(batch.num_rows):
                number += 1
                try:
                    values = batch.slice(index, 1).to_pylist(maps_as_pydicts="strict")[0]
                    yield RawRow(number, _without_nulls(values) if nested else values)
                except UnicodeDecodeError:
                    yield RawRow(number, None, "invalid_unicode")
                except (OverflowError, ValueError, KeyError) as error:  # a date outside Python's range, a name twice
                    yield RawRow(number, None, "wrong_type", str(error).splitlines()[0][:80] if str(error) else "")


def _check(path: Path, number: int, params: FileParams) -> None:
    """Decode an open file in another process, which may take LONGEST times max_row_mib."""
    most = LONGEST * row_bytes(params)
    command = [sys.executable, "-c", CHECK, str(number), str(most), str(BATCH)]
    code = subprocess.run(command, pass_fds=[number], capture_output=True, check=False).returncode
    os.lseek(number, 0, os.SEEK_SET)  # both processes share the position
    if code == 3 or code < 0:
        size = f"{LONGEST * params.max_row_mib:g} MiB"
        problem = f"{BATCH} rows take more than {size}" if code == 3 else f"reading it ends in signal {-code}"
        raise click.ClickException(
            f"{path}: {problem}; fetch it again, write it with smaller rows, or raise max_row_mib in preprocess.files"
        )


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
