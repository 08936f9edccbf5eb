"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import LandscapeError

UMASK = os.umask(0o077)  # it can only be read by setting it: once, at import
os.umask(UMASK)


@contextmanager
def whole_file(path: Path, example: str, error: type[LandscapeError]) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place on leaving without an exception.

    Raises `error` if the folder does not exist or cannot be written to; `example` is a name to suggest.
    """
    if path.is_dir():
        raise error(f"Cannot save to '{path}': it is a folder. Give the name of a file in it, such as {example}.")
    if not path.parent.is_dir():
        raise error(f"Cannot save to '{path}': the folder '{path.parent}' does not exist. Create it first.")
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        os.chmod(temporary, 0o666 & ~UMASK)
    except OSError as failure:
        raise error(f"Cannot save to '{path}': {failure.strerror}.") from failure
    try:
        yield Path(temporary)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
