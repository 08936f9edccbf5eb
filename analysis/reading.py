"""Tensors out of checkpoint files: read without running anything, found, and fitted onto a model by name.

`torch.load(weights_only=True)` reads most files. Many real ones also hold an `argparse.Namespace`, NumPy
numbers or the whole model, which it refuses. These are read again by an unpickler for which the table `KNOWN`
is all that exists; any other name in the file becomes an `Inert` object. Neither reader imports or calls what
a file names.

Files are read, not memory-mapped: a training run that overwrites its checkpoint would crash whoever has it
mapped, or change tensors in use.
"""

import json
import os
import pickle
import re
import tarfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, MappingProxyType, SimpleNamespace
from typing import IO, Any, ClassVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.serialization import MAGIC_NUMBER, StorageType

from .errors import CheckpointError

ACCEPTED = (
    "Accepted are files written by torch.save (.pt .pth .th .ckpt .bin) or safetensors; "
    "torch.save(model.state_dict(), path) is best."
)
LEGACY_MAGIC = pickle.dumps(MAGIC_NUMBER, protocol=2)[2:-1]
DEPTH = 4  # containers below the top level that are searched for state dicts
NOT_WEIGHTS = re.compile(r"(?<![a-z])(optim(izers?)?|schedulers?|lr|amp|scaler|rng|random)(?![a-z])", re.I)
FACTS = {
    "step": ("step", "global_step", "iteration", "iter", "iter_num", "num_updates"),
    "epoch": ("epoch",),
    "lr": ("lr", "learning_rate"),
    "weight_decay": ("weight_decay",),
    "momentum": ("momentum",),
}


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, on the CPU, and where in the file they were: "ema.model"; "" is the top level."""

    tensors: dict[str, Tensor]
    path: str


@dataclass(frozen=True)
class CheckpointFile:
    """What a checkpoint file holds.

    state_dicts: by path. info: the training facts that the file states, as plain numbers under one name each
    (the keys of `FACTS`), and the metadata strings of a safetensors file. placeholders: what was not loaded,
    as "module.Class", or the kind of a tensor that has no plain values (quantised, sparse).
    """

    source: Path
    state_dicts: dict[str, StateDict]
    info: dict[str, int | float | str]
    placeholders: tuple[str, ...]


@dataclass(frozen=True)
class FittedState:
    """A state dict in the model's canonical names.

    prefix: what was taken off the file's names. key: path of the state dict in the file. unused: the file's
    names outside the prefix.
    """

    tensors: dict[str, Tensor]
    prefix: str
    key: str
    unused: tuple[str, ...]


def read_checkpoint(path: str | os.PathLike[str]) -> CheckpointFile:
    """Read every state dict of a checkpoint file; nothing in the file is ever executed.

    The content tells the format: torch.save's zip or its format before 1.6, or safetensors. A pickled module
    counts as the state dict of its parameters and persistent buffers.

    Raises CheckpointError if the file is absent, empty, damaged, of another format or holds no tensors.
    """
    source = Path(path)
    if source.is_dir():
        raise CheckpointError(f"{source} is a directory; give one file in it. {ACCEPTED}")
    if not source.exists():
        raise CheckpointError(f"{source} does not exist; check the path. {ACCEPTED}")
    names: dict[str, None] = {}
    try:
        tree, metadata = _read(source, names)
        state_dicts = {found.path: found for found in _find(tree, (), (), names)}
        info = _facts(tree) | metadata
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"{source} cannot be read: {error.strerror or type(error).__name__}."
        ) from error
    except Exception as error:  # a damaged or hostile stream can fail in any way
        what = "is damaged or cut short, or asks for what no checkpoint needs; copy or save it again."
        raise _refusal(source, what) from error
    if not state_dicts:
        keys = [key for key, _ in _children(tree)]
        what = f"holds no state dict, but a {type(tree).__name__} with {_some(keys) or 'no named content'}"
        what += f", and objects that are not loaded ({_some(names)})." if names else "."
        raise _refusal(source, what)
    return CheckpointFile(source, state_dicts, info, tuple(names))


# ---- formats


def _read(source: Path, names: dict[str, None]) -> tuple[Any, dict[str, int | float | str]]:
    """The objects and the metadata in a file; `names` gains what became inert."""
    with source.open("rb") as file:
        head = file.read(512)
        file.seek(0)
        if head.startswith(b"PK\x03\x04"):
            _check_zip(source, file)
            return _load_pickled(file, names), {}
        if head[8:9] == b"{":
            return _load_safetensors(file.read())
        if tarfile.is_tarfile(source):
            what = "is a tar archive, as of PyTorch before 0.1.10 or of another tool. Unpack it, or load it "
            raise _refusal(source, what + "with the tool that wrote it and save model.state_dict().")
        if LEGACY_MAGIC in head[:40]:
            return _load_pickled(file, names), {}
    if not head:
        what = "is empty: its writing was interrupted. Save or copy it again."
    elif head.startswith(b"version https://git-lfs"):
        what = "is a Git LFS pointer, not the checkpoint itself. Run: git lfs pull."
    elif re.match(rb"\x80[\x02-\x05]", head):
        what = "is a pickle, but not of torch.save. Load it yourself, if you trust it, and use torch.save."
    else:
        what = "is not a checkpoint: it begins like no known format. Check that it is the right file."
    raise _refusal(source, what)


def _check_zip(source: Path, file: IO[bytes]) -> None:
    try:
        members = sorted({name.rpartition("/")[2] for name in zipfile.ZipFile(file).namelist()})
    except zipfile.BadZipFile as error:
        raise _refusal(source, "is damaged or cut short: it has no zip directory. Copy it again.") from error
    if "constants.pkl" in members:
        what = "is a TorchScript archive, which holds code. Load it yourself and save its weights: "
        raise _refusal(source, what + "torch.save(torch.jit.load(path).state_dict(), new_path).")
    if "data.pkl" not in members:
        raise _refusal(
            source, f"is a zip archive, but no checkpoint: it holds {_some(members) or 'nothing'}."
        )
    file.seek(0)


def _load_safetensors(data: bytes) -> tuple[Any, dict[str, int | float | str]]:
    tensors = safetensors.torch.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, header.get("__metadata__", {})


def _load_pickled(file: IO[bytes], names: dict[str, None]) -> Any:
    """torch.load of an open file (a path that ends in .safetensors it would take for one)."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # No other error may come through here: this one says that torch found a plain checkpoint and refused
        # an object in it. At a TorchScript or tar archive, whose readers must stay out of reach, torch raises
        # RuntimeError.
        file.seek(0)
    unpickler = type("Unpickler", (InertUnpickler,), {"names": names})
    module = SimpleNamespace(
        __name__="inert", Unpickler=unpickler, load=lambda file, **options: unpickler(file, **options).load()
    )
    return torch.load(file, map_location="cpu", weights_only=False, pickle_module=module)


# ---- an unpickler that runs nothing


class Inert(dict):
    """Stands for a class, function or object that a file names: keeps items and attributes, does nothing."""

    def __init__(self, name: str, args: Any = ()) -> None:
        super().__init__()
        self.name, self.args, self.state = name, args, None

    __hash__ = object.__hash__  # type: ignore[assignment]  # may be a key
    __eq__ = object.__eq__

    def append(self, *_: Any) -> None:
        """The elements of unknown lists and sets are not kept."""

    add = extend = append


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """A tensor as torch._utils._rebuild_tensor(_v2) makes it, without its hooks."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a tensor without a storage")
    metadata = rest[2] if len(rest) > 2 else None
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict(), metadata)


def _tensor_of_dtype(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """A tensor as _rebuild_tensor_v3 makes it: float8 and unsigned types, which have no typed storage."""
    if not isinstance(storage, torch.storage.TypedStorage) or not isinstance(rest[2], torch.dtype):
        raise pickle.UnpicklingError("a tensor without a storage")
    return torch._utils._rebuild_tensor_v3(storage, offset, size, stride, False, OrderedDict(), rest[2])


def _numpy_scalar(dtype: Any, data: Any = b"", *_: Any) -> Any:
    """A Python number for a NumPy bool, integer or float; anything else stays inert."""
    match getattr(dtype, "args", None), getattr(dtype, "state", None), data:
        case [str(code), *_], (_, "<" | ">" | "|" as order, *_), bytes() | str() if code[0] in "biuf":
            data = data.encode("latin1") if isinstance(data, str) else data  # Python 2 has no bytes
            return np.frombuffer(data, np.dtype(code).newbyteorder(order))[0].item()
    return Inert("numpy scalar")


KNOWN: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": lambda function, _type, args, *_: _construct(function, args),
    "torch.nn.parameter.Parameter": lambda data, *_: data,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "collections.OrderedDict": lambda *items: dict(*items),
    "collections.defaultdict": lambda _factory=None, *items: dict(*items),
    "builtins.set": lambda items=(): set(items),
    "__builtin__.set": lambda items=(): set(items),  # its name in pickle protocol 2
    "_codecs.encode": lambda text, *_: text.encode("latin1"),  # bytes in pickle protocol 2
    "numpy.dtype": lambda *args: Inert("numpy.dtype", args),
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "torch.storage.UntypedStorage": torch.UntypedStorage,
    **{f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
}
UNREAD = [code[0] for code in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.NEXT_BUFFER)]


def _construct(what: Any, args: Any) -> Any:
    """An inert object of an inert class, or the value of one of our functions; nothing else is called."""
    if isinstance(what, Inert):
        return Inert(what.name, args)
    if isinstance(what, FunctionType) and what in KNOWN.values():
        return what(*args)
    raise pickle.UnpicklingError(f"a call of a {type(what).__name__}")


class InertUnpickler(pickle._Unpickler):
    """An unpickler in which no opcode imports, calls or alters anything but the data that it builds.

    It extends the standard library's Python version; the C version does not let REDUCE, NEWOBJ and BUILD be
    replaced. `names` gains what became inert.
    """

    names: dict[str, None]
    stack: list[Any]

    def __init__(self, file: Any, **_: Any) -> None:
        super().__init__(file, encoding="latin1")  # strings of Python 2 may hold any byte

    def find_class(self, module: str, name: str) -> Any:
        full = _shown(f"{module}.{name}")
        if full in KNOWN:
            return KNOWN[full]
        self.names[full] = None
        return Inert(full)

    def _instantiate(self, what: Any, args: Any) -> None:  # of the opcodes INST and OBJ
        self.stack.append(_construct(what, args))

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack.append(_construct(self.stack.pop(), args))

    def _reduce_with_keywords(self) -> None:
        self.stack.pop()
        self._reduce()

    def _build(self) -> None:
        """Inert objects keep their state; whatever else the stream wants to alter stays as it is."""
        state = self.stack.pop()
        if isinstance(inert := self.stack[-1], Inert):
            inert.state = state
            for part in state if isinstance(state, tuple) else (state,):  # (attributes, slots)
                inert.update(part if isinstance(part, dict) else {})

    def _persistent(self) -> None:
        match self.stack.pop():
            case ("module", kind, *_):  # torch would compare the source of the class, and write a patch file
                self.stack.append(kind)
            case ("storage", kind, str() | int(), str(), int(), *_) as storage if (
                kind is torch.UntypedStorage or isinstance(kind, StorageType)
            ):
                self.stack.append(self.persistent_load(storage))
            case _:
                raise pickle.UnpicklingError("a persistent id that is no storage")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{code: read for code, read in pickle._Unpickler.dispatch.items() if code not in UNREAD},
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.NEWOBJ_EX[0]: _reduce_with_keywords,
        pickle.BUILD[0]: _build,
        pickle.BINPERSID[0]: _persistent,
    }


# ---- what the objects hold


def _children(node: Any) -> list[tuple[str, Any]]:
    """What a container holds, by name; nothing for any other object."""
    if isinstance(node, (list, tuple)):
        return [(str(i), child) for i, child in enumerate(node)]
    pairs = node.items() if isinstance(node, Mapping) else ()
    return [(str(key), child) for key, child in pairs if isinstance(key, (str, int))]


def _find(
    node: Any, at: tuple[str, ...], above: tuple[int, ...], names: dict[str, None]
) -> Iterator[StateDict]:
    """Every state dict at or below a node, but none of optimisers and the like."""
    content = dict(_children(node))
    if "param_groups" in content or id(node) in above or len(at) > DEPTH:
        return
    is_module = isinstance(node, Inert) and "_parameters" in content and "_modules" in content
    if is_module:
        content = dict(_module_entries(node, "", ()))
    tensors = {} if isinstance(node, (list, tuple)) else _tensors(content, names)
    if tensors:
        yield StateDict(tensors, ".".join(at))
    for name, child in content.items():
        if not NOT_WEIGHTS.search(name):
            yield from _find(child, (*at, name), (*above, id(node)), names)


def _module_entries(module: Any, prefix: str, above: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """The state dict of a pickled nn.Module."""
    attributes = dict(_children(module))
    transient = attributes.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for name, value in _children(attributes.get(kind)):
            if isinstance(value, Tensor) and name not in transient:
                yield prefix + name, value
    for name, child in _children(attributes.get("_modules")):
        if isinstance(child, Inert) and child not in above:
            yield from _module_entries(child, f"{prefix}{name}.", (*above, module))


def _tensors(content: dict[str, Any], names: dict[str, None]) -> dict[str, Tensor]:
    """The tensors that have plain values; `names` gains the kinds of the others."""
    tensors = {}
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            continue
        if tensor.is_quantized or tensor.layout != torch.strided or tensor.device.type != "cpu":
            kind = "quantised" if tensor.is_quantized else f"{tensor.device.type}, {tensor.layout}"
            names[f"torch.Tensor ({kind})"] = None
        else:
            tensors[name] = tensor.detach()
    return tensors


def _facts(tree: Any) -> dict[str, int | float | str]:
    """Training facts at the top level, in the notes that some trainers keep, and in the first optimiser."""
    top = dict(_children(tree))
    scopes = [top, *(dict(_children(top.get(notes))) for notes in ("meta", "extra_state", "trainer_state"))]
    for name in filter(lambda name: "optim" in name.lower(), top):
        optimiser = top[name][0] if isinstance(top[name], list) and top[name] else top[name]
        groups = dict(_children(optimiser)).get("param_groups")
        scopes += [dict(_children(group)) for _, group in _children(groups)[:1]]
    facts: dict[str, int | float | str] = {}
    for fact, spellings in FACTS.items():
        for value in (_number(scope.get(spelling)) for scope in scopes for spelling in spellings):
            if value is not None:
                facts.setdefault(fact, value)
    return facts


def _number(value: Any) -> int | float | None:
    if isinstance(value, Tensor) and value.numel() == 1 and value.device.type == "cpu":
        value = value.item()
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


# ---- fitting


def fit_state_dict(
    file_or_statedict: CheckpointFile | StateDict,
    expected: Mapping[str, torch.Size],
    aliases: Mapping[str, str] = MappingProxyType({}),
    optional: Collection[str] = (),
    key: str | None = None,
) -> FittedState:
    """The one state dict that fits a model, strictly by name and shape.

    expected: shape of every entry of the model's state dict. aliases: further name -> canonical name of tied
    weights, of which the file needs one. optional: names that the file may lack. key: which state dict, by
    path in the file or by path and prefix ("state_dict.ema_model").

    The names must agree one to one after some prefix ("module.", "model.", any other) is taken off or,
    failing that, after "module." and "_orig_mod." are taken out wherever they stand.

    Raises CheckpointError if nothing fits (naming the closest state dict and the first differences), if
    several state dicts fit, or if there is no `key`.
    """
    if isinstance(file_or_statedict, StateDict):
        given = {file_or_statedict.path: file_or_statedict}
        file_or_statedict = CheckpointFile(Path("The state dict"), given, {}, ())
    state_dicts, source = file_or_statedict.state_dicts, file_or_statedict.source.name
    model = _Model(expected, aliases, optional)
    chosen = [state_dicts[key]] if key in state_dicts else state_dicts.values()
    trials = [trial for state_dict in chosen for trial in model.trials(state_dict)]
    if key is not None and key not in state_dicts:
        trials = [trial for trial in trials if trial.label == key]
        if not trials:
            available = f"Available: {_some(state_dicts, 20)}; '' is the top level."
            raise CheckpointError(f"{source} has no state dict '{_shown(key)}'. {available}")
    fits = [trial.fitted for trial in trials if not trial.differences]
    if not fits:
        closest = min(trials, key=lambda trial: trial.distance)
        raise CheckpointError(f"{source} does not fit the model. {closest.explain(file_or_statedict)}")
    if not all(_same_memory(fits[0].tensors, other.tensors) for other in fits[1:]):
        labels = [trial.label for trial in trials if not trial.differences]
        choose = f"Choose one, for example key='{_shown(labels[0])}'."
        raise CheckpointError(
            f"{source}: {len(labels)} state dicts fit the model: {_some(labels, 20)}. {choose}"
        )
    return fits[0]


@dataclass(frozen=True)
class _Trial:
    """A state dict read under one prefix; `distance` counts what is missing, then size, then excess."""

    fitted: FittedState
    differences: list[str]
    distance: tuple[int, int, int]

    @property
    def label(self) -> str:
        return ".".join(filter(None, (self.fitted.key, self.fitted.prefix.rstrip("."))))

    def explain(self, file: CheckpointFile) -> str:
        text = f"Closest is '{_shown(self.label)}': " if self.label else "In its top level "
        text += "; ".join(self.differences) + ". "
        if not self.fitted.tensors:
            text += "No name agrees: the file is of another architecture, or its names were changed."
        else:
            text += (
                "Build the model as it was for training, or rename or delete entries and save the file anew."
            )
        text += f" Not loaded: {_some(file.placeholders)}." if file.placeholders else ""
        others = [path or "(top level)" for path in file.state_dicts if path != self.fitted.key]
        return text + (f" Other state dicts in it: {_some(others, 10)}." if others else "")


class _Model:
    """What a state dict must agree with."""

    def __init__(
        self, expected: Mapping[str, torch.Size], aliases: Mapping[str, str], optional: Collection[str]
    ) -> None:
        self.expected = expected
        self.ties = {name: [name] for name in expected if name not in aliases}
        for alias, canonical in aliases.items():
            self.ties[canonical].append(alias)
        self.optional = {
            canonical for canonical, names in self.ties.items() if not set(optional).isdisjoint(names)
        }

    def trials(self, state_dict: StateDict) -> list[_Trial]:
        """The state dict under each prefix that could fit, in its own names or else without wrappers."""
        trials: list[_Trial] = []
        for rename in (str, _unwrapped):
            ours = {rename(name): name for name in self.expected}
            theirs = {rename(name): name for name in state_dict.tensors}
            if len(ours) < len(self.expected) or len(theirs) < len(state_dict.tensors):
                continue  # two names became one
            matches = Counter({"": 0})
            for name in theirs:
                cuts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
                matches.update(name[:cut] for cut in cuts if name[cut:] in ours)
            enough = min(len(self.ties) - len(self.optional), max(matches.values()))
            prefixes = [prefix for prefix, count in matches.items() if count >= enough]
            trials += [self._trial(state_dict, prefix, theirs, ours) for prefix in prefixes]
            if not all(trial.differences for trial in trials):
                break
        return trials

    def _trial(
        self, state_dict: StateDict, prefix: str, theirs: dict[str, str], ours: dict[str, str]
    ) -> _Trial:
        inside = {name.removeprefix(prefix): raw for name, raw in theirs.items() if name.startswith(prefix)}
        tensors = {ours[name]: state_dict.tensors[raw] for name, raw in inside.items() if name in ours}
        present = {name: [tied for tied in names if tied in tensors] for name, names in self.ties.items()}
        missing = [name for name, names in present.items() if not names and name not in self.optional]
        extra = [raw for name, raw in inside.items() if name not in ours]
        shapes = [name for name, tensor in tensors.items() if tensor.shape != self.expected[name]]
        differences = [f"missing are {_some(missing)}"] if missing else []
        differences += [f"the model does not have {_some(extra)}"] if extra else []
        for name in shapes[:1]:
            sizes = f"{list(tensors[name].shape)} in the file and {list(self.expected[name])} in the model"
            differences += [f"shapes that differ: {len(shapes)}, first '{_shown(name)}', {sizes}"]
        for names in present.values():
            if not differences and any(not _equal(tensors[names[0]], tensors[name]) for name in names[1:]):
                differences += [
                    f"the model ties {_some(names)}, which the file holds apart: their values differ"
                ]
        fitted = FittedState(
            {name: tensors[names[0]] for name, names in present.items() if names},
            prefix,
            state_dict.path,
            tuple(raw for name, raw in theirs.items() if not name.startswith(prefix)),
        )
        distance = (len(missing) + len(shapes), -len(state_dict.tensors), len(extra))
        return _Trial(fitted, differences, distance)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod"))


def _equal(a: Tensor, b: Tensor) -> bool:
    """Equal in dtype and in every bit, so that NaN equals itself."""
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)]
    return a.dtype == b.dtype and torch.equal(*bits)


def _same_memory(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """One state dict that the file holds at two paths leaves no choice to make."""
    return a.keys() == b.keys() and all(
        (tensor.data_ptr(), tensor.stride()) == (b[name].data_ptr(), b[name].stride())
        for name, tensor in a.items()
    )


# ---- words


def _refusal(source: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{source} ({source.stat().st_size:,} bytes) {what} {ACCEPTED}")


def _some(names: Collection[str], most: int = 3) -> str:
    """The first few names, quoted, and how many more there are."""
    listed = ", ".join(f"'{_shown(name)}'" for name in list(names)[:most])
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")


def _shown(name: str) -> str:
    """A name out of a file as one short line of plain characters."""
    return ascii(name)[1:-1][:100]
