"""Projects: a Python file of the user's own that names problems and checkpoints.

The contract of ``my_project.py``:

* ``problem``, a Problem, or ``problems``, a dict of name to Problem, or to a function without arguments that
  makes it when it is first looked at. Required.
* ``checkpoints``, optional: a path, a list of paths, or a dict of name to path, (path, key), state dict or
  module; with several problems also a dict of problem name to one of these. In a list a path may be a file, a
  folder or a pattern such as ``runs/*.pt``, relative to the project file. A folder stands for the checkpoints in
  it, files and folders of their own (with shards and an index, or with one weights file), numbers in their names
  in numeric order. The key picks one of several state dicts in a file. Without ``checkpoints`` the one checkpoint
  is the model as given.

The file runs once when the project is loaded, with its folder first on the import path. An exception in it is a
ProjectError that carries the user's own traceback.
"""

from __future__ import annotations

import difflib
import glob
import importlib.util
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .checkpoints import Checkpoint
from .errors import CheckpointError, ProjectError
from .problem import Problem
from .reading import is_whole
from .shards import index_of, is_checkpoint, numeric, weight_files

SETTLED = 1.0  # seconds without a change after which a file counts as written
_neighbours: set[str] = set()  # modules that a project imported from its own folder


class Project:
    """Problems by name, and for each the checkpoints that belong to it, loaded when asked for.

    problems: one Problem or a dict. checkpoints: see this module. Raises ProjectError.
    """

    def __init__(self, problems: Any, checkpoints: Any = None, *, name: str = "project", path: Path | None = None):
        if isinstance(problems, Problem):
            problems = {problems.name: problems}
        if not isinstance(problems, Mapping) or not problems:
            raise ProjectError(
                f"problems is a {type(problems).__name__}; expected a Problem or a dict of name to Problem."
            )
        self.name, self.path = name, path
        self.problems = Problems(problems)
        folder = path.parent if path else Path()
        per_problem = isinstance(checkpoints, Mapping) and checkpoints and set(checkpoints) <= set(problems)
        given = {key: checkpoints.get(key) if per_problem else checkpoints for key in self.problems}
        self._sources: dict[str, dict[str, Any]] = {key: _named(given[key], folder) for key in self.problems}
        self._folder, self._coming = folder, dict[Path, tuple[object, float]]()
        self._looking = threading.Lock()
        self._watched = {key: entries for key in given if (entries := _watchable(given[key], folder))}

    def __repr__(self) -> str:
        return f"Project({self.name!r}, {list(self.problems)})"

    def checkpoint_names(self, problem: str) -> tuple[str, ...]:
        return tuple(self._sources[self._known(problem)])

    @property
    def watched(self) -> bool:
        """Whether checkpoints were named by folders or patterns, in which more may appear."""
        return bool(self._watched)

    def refresh(self) -> None:
        """Look again into the folders and patterns: what came is offered, what went is not.

        A new file is taken once it has not changed for a second and is all there. Names once given stay; while there is
        nothing at all, those from before do.
        """
        with self._looking:
            for key, entries in self._watched.items():
                known = {path: name for name, path in self._sources[key].items()}
                try:
                    files = dict.fromkeys(file for entry in entries for file in _files(entry, self._folder))
                except (CheckpointError, OSError):  # of a folder that is being written or taken away
                    continue
                found = [file for file in files if (file in known and file.exists()) or self._arrived(file)]
                labels = {path: name for name, path in _labelled(found).items()} if found else {}
                new = {path: path.as_posix() if name in known.values() else name for path, name in labels.items()}
                if found:
                    self._sources[key] = {known.get(path, new[path]): path for path in found}

    def _arrived(self, path: Path) -> bool:
        try:
            parts = sorted(path.iterdir()) if path.is_dir() else [path]
            now = [(part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
        except OSError:
            return False
        before, since = self._coming.get(path, (None, 0.0))
        if now != before:
            self._coming[path] = now, time.monotonic()
            return False
        return time.monotonic() - since >= SETTLED and is_whole(path)

    def checkpoint(self, problem: str, name: str) -> Checkpoint:
        """Load a checkpoint. Raises CheckpointError if there is none of that name, or if it does not fit."""
        sources = self._sources[self._known(problem)]
        if name not in sources:
            raise CheckpointError(f"'{problem}' has no checkpoint '{name}'; there are {list(sources)}.")
        source, key = sources[name] if isinstance(sources[name], tuple) else (sources[name], None)
        return self.problems[problem].checkpoint(source, name=name, key=key)

    def modified(self, problem: str, name: str) -> float:
        """When a checkpoint was last written, in seconds since 1970; 0 for what is no file or folder."""
        return max((written for written, _ in self._parts(problem, name)), default=0.0)

    def size(self, problem: str, name: str) -> int:
        """The bytes of a checkpoint's file or folder; 0 for what is none."""
        return sum(size for _, size in self._parts(problem, name))

    def source(self, problem: str, name: str) -> Path | None:
        """The file or folder that a checkpoint is read from, None for what is in memory."""
        source = self._sources[self._known(problem)].get(name)
        path = source[0] if isinstance(source, tuple) else source
        return Path(path) if isinstance(path, (str, Path)) else None

    def _parts(self, problem: str, name: str) -> list[tuple[float, int]]:
        """When each file of a checkpoint was written, and its size."""
        path = self.source(problem, name)
        try:
            parts = [] if path is None else list(path.iterdir()) if path.is_dir() else [path]
            found = [part.stat() for part in parts]
        except OSError:  # deleted meanwhile
            return []
        return [(one.st_mtime, one.st_size) for one in found]

    def _known(self, problem: str) -> str:
        if problem not in self.problems:
            raise ProjectError(f"There is no problem '{problem}' in {self.name}; there are {list(self.problems)}.")
        return problem


class Problems(Mapping[str, Problem]):
    """Problems by name, made when they are first asked for. Raises ProjectError for what is none."""

    def __init__(self, problems: Mapping[str, Any]):
        self._given = dict(problems)
        self._making = threading.RLock()
        for name, value in self._given.items():
            if not callable(value):
                self._checked(name, value)

    def __getitem__(self, name: str) -> Problem:
        with self._making:
            if not isinstance(self._given[name], Problem):
                self._given[name] = self._checked(name, self._given[name]())
            return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def __contains__(self, name: object) -> bool:
        return name in self._given

    def _checked(self, name: str, value: Any) -> Problem:
        if not isinstance(value, Problem):
            raise ProjectError(
                f"problems[{name!r}] is a {type(value).__name__}; expected an analysis.Problem, or a function that "
                "returns one."
            )
        return value


def _named(checkpoints: Any, folder: Path) -> dict[str, Any]:
    if checkpoints is None:
        return {"model as given": None}
    if isinstance(checkpoints, Mapping) and not all(_is_source(v) for v in checkpoints.values()):
        bad = next(key for key, value in checkpoints.items() if not _is_source(value))
        raise ProjectError(
            f"checkpoints[{bad!r}] is a {type(checkpoints[bad]).__name__}; expected a path, (path, key), a "
            "state dict or a module."
        )
    if isinstance(checkpoints, Mapping):
        return {str(name): _placed(value, folder) for name, value in checkpoints.items()}
    if isinstance(checkpoints, (str, Path)):
        checkpoints = [checkpoints]
    if not isinstance(checkpoints, (list, tuple)) or not all(isinstance(c, (str, Path)) for c in checkpoints):
        raise ProjectError(
            f"checkpoints is a {type(checkpoints).__name__}; expected a path, a list of paths, or a dict of name to "
            "path, state dict or module."
        )
    files = [file for entry in checkpoints for file in _files(entry, folder)]
    if not files:
        raise ProjectError(f"checkpoints = {[str(c) for c in checkpoints]} names no file below '{folder or '.'}'.")
    return _labelled(dict.fromkeys(files))


def _watchable(checkpoints: Any, folder: Path) -> list[str | Path]:
    """All that a list names, if more may appear in a part of it."""
    entries = [checkpoints] if isinstance(checkpoints, (str, Path)) else checkpoints
    if not isinstance(entries, (list, tuple)):
        return []
    watched = any(glob.has_magic(str(entry)) or _resolved(entry, folder).is_dir() for entry in entries)
    return list(entries) if watched else []


def _is_source(value: Any) -> bool:
    keyed = isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, (str, Path)) for v in value)
    return keyed or isinstance(value, (str, Path, Mapping, nn.Module, Checkpoint))


def _placed(value: Any, folder: Path) -> Any:
    if isinstance(value, tuple):
        return _resolved(value[0], folder), value[1]
    return _resolved(value, folder) if isinstance(value, (str, Path)) else value


def _resolved(entry: str | Path, folder: Path) -> Path:
    entry = Path(entry).expanduser()
    return entry if entry.is_absolute() else folder / entry


def _files(entry: str | Path, folder: Path) -> list[Path]:
    """The checkpoints, files or folders, that an entry stands for; a run's final weights after its steps."""
    path = _resolved(entry, folder)
    final: list[Path] = []
    if path.is_dir():
        found = [*weight_files(path), *(child for child in path.iterdir() if child.is_dir() and is_checkpoint(child))]
        final = [path] if index_of(path) is not None else []
    elif glob.has_magic(str(entry)) and not path.exists():
        matches = (folder / match for match in glob.glob(str(Path(entry).expanduser()), root_dir=folder))
        found = [match for match in matches if match.is_file() or (match.is_dir() and is_checkpoint(match))]
    else:
        found = [path]
    return [*sorted(found, key=lambda file: numeric(file.as_posix())), *final]


def _labelled(files: Iterable[Path]) -> dict[str, Path]:
    """Each file under the shortest name that no other has: without suffix, with it, or with folders before it."""
    paths = list(files)
    depths = range(1, 1 + max(len(p.parts) for p in paths))
    names = [
        [p.name if p.is_dir() else p.stem for p in paths],
        *(["/".join(p.parts[-k:]) for p in paths] for k in depths),
    ]
    found = {next(row[i] for row in names if row.count(row[i]) == 1): path for i, path in enumerate(paths)}
    return found if len(found) == len(paths) else {path.as_posix(): path for path in paths}


def load_project(path: str | Path) -> Project:
    """Run a project file and take what it names. Raises ProjectError with the user's traceback as `details`."""
    path = Path(path)
    if not path.is_file():
        raise ProjectError(f"There is no project file '{path}'. Give the path of a Python file that defines `problem`.")
    if path.suffix != ".py":
        raise ProjectError(f"'{path.name}' is not a Python file; a project is a .py file that defines `problem`.")
    module = _run(path.resolve())
    problems = getattr(module, "problems", None) or getattr(module, "problem", None)
    alone = getattr(module, "problem", None)
    if isinstance(problems, Mapping) and isinstance(alone, Problem) and alone not in problems.values():
        raise ProjectError(f"{path.name} has both `problem` and `problems`; keep one of them.")
    if problems is None:
        raise ProjectError(
            f"'{path.name}' defines neither `problem` (an analysis.Problem) nor `problems` (a dict of them)."
        )
    _refuse_misspelt(path, module)
    try:
        return Project(problems, getattr(module, "checkpoints", None), name=path.stem, path=path.resolve())
    except ProjectError as error:
        raise ProjectError(f"In '{path.name}': {error}") from error


def _refuse_misspelt(path: Path, module: Any) -> None:
    """A `checkpoint` for `checkpoints` would be passed over, and the untrained model drawn."""
    if hasattr(module, "checkpoints"):
        return
    for name, value in vars(module).items():
        close = difflib.get_close_matches(name, ["checkpoints"], cutoff=0.85)
        if close and isinstance(value, (str, Path, list, tuple, Mapping)):
            raise ProjectError(f"'{path.name}' defines `{name}`, which means nothing here; did you mean `checkpoints`?")


def _run(path: Path) -> Any:
    name = f"landscape_project_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    for neighbour in _neighbours:  # of the project before, or of this one before it was edited
        sys.modules.pop(neighbour, None)
    before = set(sys.modules)
    sys.path.insert(0, str(path.parent))
    sys.modules[name] = module  # classes defined in the file must be found by their module's name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise _failed(path, error) from error
    finally:
        sys.path.remove(str(path.parent))
        _neighbours.update(n for n in set(sys.modules) - before if _lies_below(sys.modules[n], path.parent))
    return module


def _lies_below(module: Any, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(folder) and "site-packages" not in file


def _failed(path: Path, error: BaseException) -> ProjectError:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    where = f", line {line}" if line else ""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    source = f" in `{error.text.strip()}`" if isinstance(error, SyntaxError) and error.text else ""
    notes = " ".join(getattr(error, "__notes__", ()))
    failure = ProjectError(f"'{path.name}'{where}: {type(error).__name__}: {message}{source} {notes}".rstrip())
    failure.details = "".join(traceback.format_exception(error))
    return failure
