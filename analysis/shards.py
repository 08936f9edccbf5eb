"""Checkpoints that are folders: weights cut into shards with an index, and the one weights file among others.

The layout is that of Hugging Face (``model.safetensors.index.json`` or ``pytorch_model.bin.index.json`` beside its
shards): JSON of which ``weight_map`` says for each tensor in which file of the same folder it lies.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from .errors import CheckpointError
from .unpickling import shown, some

SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".bin", ".safetensors")
INDEX = ".index.json"
STATE = re.compile(r"(optimizer|scheduler|sampler|(grad_)?scaler|rng_state|random_states|training_args)(_\d+)*", re.I)
SHARD = re.compile(r".*-\d{5}-of-\d{5}", re.I)


def is_index(path: Path) -> bool:
    """Whether this is the name of a shard index."""
    return path.name.endswith(INDEX)


def numeric(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts step-9 before step-10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def weight_files(folder: Path) -> list[Path]:
    """The files in a folder that hold weights of their own: not shards, optimisers, nor states of generators."""
    files = (file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())
    return [file for file in files if not STATE.fullmatch(file.stem) and not SHARD.fullmatch(file.stem)]


def index_of(folder: Path) -> Path | None:
    """The shard index of a folder, that of safetensors before others; None without one.

    Raises CheckpointError if there are several of one kind.
    """
    for ending in (f".safetensors{INDEX}", INDEX):
        found = sorted(file for file in folder.iterdir() if file.name.endswith(ending) and file.is_file())
        if len(found) > 1:
            names = some([file.name for file in found], 20)
            raise CheckpointError(f"{folder} holds {len(found)} indices of shards: {names}. Give one of them.")
        if found:
            return found[0]
    return None


def weights_of(folder: Path) -> Path:
    """The index, or else the one weights file, of a folder that is one checkpoint.

    Where the same weights were saved in both formats, the safetensors file counts.

    Raises CheckpointError if there is none, or no telling which.
    """
    index = index_of(folder)
    if index is not None:
        return index
    files = weight_files(folder)
    safe = [file for file in files if file.suffix == ".safetensors"]
    if len(files) == 2 and {file.name for file in files} == {"model.safetensors", "pytorch_model.bin"}:
        files = safe
    if len(files) == 1:
        return files[0]
    if files:
        names = some(sorted((file.name for file in files), key=numeric), 20)
        raise CheckpointError(f"{folder} is a folder with {len(files)} checkpoints: {names}. Give one of them.")
    held = sorted((file.name for file in folder.iterdir()), key=numeric)
    inside = [name for name in held if (folder / name).is_dir() and _has_weights(folder / name)]
    if inside:
        raise CheckpointError(f"{folder} is a folder of checkpoints in folders: {some(inside, 20)}. Give one of them.")
    if any(name.endswith(".distcp") for name in held):
        why = "a distributed checkpoint. Convert it first: python -m torch.distributed.checkpoint.format_utils "
        why += "dcp_to_torch FOLDER model.pt"
    elif any(SHARD.fullmatch(Path(name).stem) for name in held):
        why = f"shards without their index. Copy the file that ends in {INDEX} too"
    else:
        why = f"no weights. It holds {some(held) or 'nothing'}; expected is one file ({' '.join(SUFFIXES)}) or shards "
        why += f"with their {INDEX}"
    raise CheckpointError(f"{folder} is a folder with {why}.")


def _has_weights(folder: Path) -> bool:
    try:
        return bool(weight_files(folder)) or any(is_index(file) for file in folder.iterdir())
    except OSError:
        return False


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one checkpoint: shards with their index, or one weights file."""
    try:
        return bool(weights_of(folder))
    except (CheckpointError, OSError):
        return False


def shards_of(index: Path) -> dict[Path, list[str]]:
    """The shards that an index names, and the names of the tensors in each.

    Raises CheckpointError if it is no index, if a shard is missing, or if one would lie outside of the folder.
    """
    try:
        content = json.loads(index.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{index} is not JSON: it is damaged or cut short; copy or save it again.") from error
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
        raise CheckpointError(
            f"{index} is no index of shards: expected is JSON with a 'weight_map' of tensor name to file name."
        )
    shards: dict[Path, list[str]] = {}
    for name, file in table.items():
        if not _plain(file):
            raise CheckpointError(
                f"{index} places '{shown(name)}' in '{shown(file)}'; a shard is a file in the same folder, named "
                "without a path. Nothing was read."
            )
        shards.setdefault(index.parent / file, []).append(name)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent} is incomplete: {len(missing)} of {len(shards)} shards are missing: {some(missing, 20)}. "
            "Copy or download them too."
        )
    return shards


def _plain(file: str) -> bool:
    """Whether a text is the name of a file, on any system, and no path."""
    return (
        bool(file)
        and file.isprintable()
        and file not in (".", "..")
        and PurePosixPath(file).name == file == PureWindowsPath(file).name
    )
