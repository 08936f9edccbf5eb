"""Tensors out of checkpoint files: read without running anything, and found wherever they stand.

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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor
from torch.serialization import MAGIC_NUMBER

from .errors import CheckpointError
from .shards import INDEX, is_index, shards_of, weights_of
from .unpickling import Inert, InertUnpickler, some

ACCEPTED = (
    "Accepted are files written by torch.save (.pt .pth .th .ckpt .bin) or safetensors, and folders with one of "
    "them or with shards and their index; torch.save(model.state_dict(), path) is best."
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

    source: the file, index or folder that was read. state_dicts: by path. info: the training facts that the file
    states, as plain numbers under one name each (the keys of `FACTS`), and the metadata strings of a safetensors
    file. placeholders: what was not loaded, as "module.Class", or the kind of a tensor that has no plain values
    (quantised, sparse).
    """

    source: Path
    state_dicts: dict[str, StateDict]
    info: dict[str, int | float | str]
    placeholders: tuple[str, ...]

    @property
    def name(self) -> str:
        """What to call it: the name of the file without its suffix, or of the folder."""
        path = Path(os.path.abspath(self.source))
        if is_index(path):
            return path.parent.name
        return path.name if path.is_dir() else path.stem


def read_checkpoint(path: str | os.PathLike[str]) -> CheckpointFile:
    """Read every state dict of a checkpoint file; nothing in the file is ever executed.

    path: a file, whose content tells the format: torch.save's zip or its format before 1.6, or safetensors. Or the
    index of shards (``model.safetensors.index.json``, ``pytorch_model.bin.index.json``) whose tensors become one state
    dict. Or a folder that holds one of these. A pickled module counts as the state dict of its parameters and
    persistent buffers.

    Raises CheckpointError if the file or a shard of it is absent, empty, damaged, of another format or holds no
    tensors, and for an index that names anything but files in its own folder.
    """
    source = Path(path)
    if not source.exists():
        raise CheckpointError(f"{source} does not exist; check the path. {ACCEPTED}")
    try:
        file = weights_of(source) if source.is_dir() else source
        found = _read_shards(file) if is_index(file) else _read_file(file)
    except OSError as error:
        raise CheckpointError(f"{source} cannot be read: {error.strerror or type(error).__name__}.") from error
    return replace(found, source=source)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint that may still be being written is all there, as far as its outline says."""
    try:
        file = weights_of(path) if path.is_dir() else path
        return all(map(_ends, shards_of(file) if is_index(file) else [file]))
    except (CheckpointError, OSError, ValueError):
        return False


def _ends(file: Path) -> bool:
    """Whether a zip archive has its directory, or a safetensors file all of its tensors."""
    with file.open("rb") as opened:
        head = opened.read(9)
        if head[8:9] != b"{":
            begun = len(head) == 9 and file.suffix != ".safetensors"
            return zipfile.is_zipfile(file) if head.startswith(b"PK") else begun
        opened.seek(8)
        length, size = int.from_bytes(head[:8], "little"), file.stat().st_size
        if 8 + length > size:  # of a file of another kind it may be any number
            return False
        header = json.loads(opened.read(length))
    try:
        ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
    except (AttributeError, TypeError, LookupError):
        return False
    return size == 8 + length + max(ends, default=0)


def _read_shards(index: Path) -> CheckpointFile:
    """The tensors of all shards as one state dict."""
    tensors: dict[str, Tensor] = {}
    info: dict[str, int | float | str] = {}
    placeholders: dict[str, None] = {}
    shards = shards_of(index)
    listed = {name for names in shards.values() for name in names}
    for shard, names in shards.items():
        file = _read_file(shard)
        held = file.state_dicts[""].tensors if "" in file.state_dicts else {}
        absent = [name for name in names if name not in held]
        if absent:
            raise CheckpointError(
                f"{shard} lacks {some(absent)}, which {index.name} says it holds: they are of different saves. Copy "
                f"the shards and their {INDEX} from one place."
            )
        tensors |= {name: tensor for name, tensor in held.items() if name in names or name not in listed}
        info |= file.info
        placeholders |= dict.fromkeys(file.placeholders)
    return CheckpointFile(index, {"": StateDict(tensors, "")}, info, tuple(placeholders))


def _read_file(source: Path) -> CheckpointFile:
    names: dict[str, None] = {}
    try:
        tree, metadata = _read(source, names)
        state_dicts = {found.path: found for found in _find(tree, (), (), names)}
        info = _facts(tree) | metadata
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # a damaged or hostile stream can fail in any way
        what = "is damaged or cut short, or asks for what no checkpoint needs; copy or save it again."
        raise _refusal(source, what) from error
    if not state_dicts:
        keys = [key for key, _ in _children(tree)]
        what = f"holds no state dict, but a {type(tree).__name__} with {some(keys) or 'no named content'}"
        what += f", and objects that are not loaded ({some(names)})." if names else "."
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
        raise _refusal(source, f"is a zip archive, but no checkpoint: it holds {some(members) or 'nothing'}.")
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


# ---- what the objects hold


def _children(node: Any) -> list[tuple[str, Any]]:
    """What a container holds, by name; nothing for any other object."""
    if isinstance(node, (list, tuple)):
        return [(str(i), child) for i, child in enumerate(node)]
    pairs = node.items() if isinstance(node, Mapping) else ()
    return [(str(key), child) for key, child in pairs if isinstance(key, (str, int))]


def _find(node: Any, at: tuple[str, ...], above: tuple[int, ...], names: dict[str, None]) -> Iterator[StateDict]:
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


def _refusal(source: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{source} ({source.stat().st_size:,} bytes) {what} {ACCEPTED}")
