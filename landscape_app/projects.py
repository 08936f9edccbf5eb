"""The project that a server shows: read once, and again when its file has changed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from analysis import Project, load_project

VARIABLE = "LANDSCAPE_PROJECT"
SAMPLES = Path(__file__).parent.parent / "sample_checkpoints" / "samples.py"

_lock = threading.Lock()
_read: dict[Path, tuple[int, Project]] = {}


def project_path() -> Path:
    """The project that the environment names, else the shipped samples."""
    return Path(os.environ.get(VARIABLE) or SAMPLES)


def open_project(path: Path) -> Project:
    """The project in that file. Sessions share it until the file changes. Raises ProjectError."""
    with _lock:
        changed = path.stat().st_mtime_ns if path.is_file() else -1
        if path not in _read or _read[path][0] != changed:
            _read.pop(path, None)
            _read[path] = changed, load_project(path)
        return _read[path][1]
