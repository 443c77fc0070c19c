"""Opening: a raw file is checked when it is open, so that no link leads a reader elsewhere, not even a new one."""

import os
import re
import stat
from io import FileIO
from pathlib import Path

import click

# What DVC's own links lead to: a file that its content names.
CACHED = re.compile(r".*/\.dvc/cache/files/md5/[0-9a-f]{2}/[0-9a-f]{30}")
KINDS = {
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def open_file(path: Path, folder: Path | None = None) -> FileIO:
    """Open a file, and check what was opened: between a check and a look by name, another file can get the name.

    Args:
        path: the file.
        folder: the folder that it has to be in, if its content is not in DVC's cache. None: it may be anywhere.

    Raises:
        click.ClickException: no file, but a pipe, a socket or a device; or a link leads out of the folder.
        OSError: no such file, or one that this user may not read.
    """
    require_file(path, path.stat().st_mode)
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # else a pipe would wait for its writer
    try:
        require_file(path, os.fstat(opened).st_mode)
        if folder is not None:
            require_inside(path, _real_path(path, opened), folder)
        return FileIO(opened, closefd=True)
    except BaseException:
        os.close(opened)
        raise


def require_file(path: Path, mode: int) -> None:
    """Refuse what is no file.

    Raises:
        click.ClickException: reading it may take for ever, or read something else than is there.
    """
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "something else")
        raise click.ClickException(f"{path}: not a file but {kind}; delete it, or move it away")


def require_inside(path: Path, real: Path, folder: Path) -> None:
    """Refuse a link that git and DVC would not bring to another machine.

    Args:
        path: the file, for messages.
        real: where it really is.
        folder: where it should be. It must not be a link itself.

    Raises:
        click.ClickException: it is elsewhere.
    """
    if folder.parent.resolve() / folder.name not in real.parents and not CACHED.fullmatch(str(real)):
        raise click.ClickException(
            f"{path}: a link out of {folder}, whose file would be missing elsewhere; copy the file here"
        )


def _real_path(path: Path, opened: int) -> Path:
    """Return where an open file is. Only Linux can tell; elsewhere the name is looked up again."""
    shown = Path("/proc/self/fd", str(opened))
    return shown.readlink() if shown.is_symlink() else path.resolve()
