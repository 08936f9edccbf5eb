"""Evaluation data, frozen once: the same samples in the same order for every point of every picture."""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate

from .errors import DataError
from .randomness import untouched_rng
from .weights import hash_tensor

HOST_SHARE = 1 / 4  # of the machine's memory: data beyond it lie on disk
DEVICE_SHARE = 1 / 2  # of the device's free memory: data beyond it stay on the host
ACCEPTED = (
    "Accepted are a tuple of tensors (inputs, targets), a dict of tensors, a torch Dataset, a DataLoader, "
    "or an iterable of batches."
)


class FrozenData:
    """Batches that stay as they were drawn.

    n: number of samples. digest: SHA-256 over all tensors and batch boundaries.
    mergeable: batches of one form, so that samples can be cut anew.
    Samples count along dim 0 of the first tensor of a batch.
    streamed: the tensors lie on disk or on the host, in the dtype as given, and are moved when they are used.
    """

    def __init__(self, batches: list[Any], digest: str, spool: _Spool | None = None):
        self.sizes = [count(batch) for batch in batches]
        self.n = sum(self.sizes)
        self.digest = digest
        signatures = {_signature(batch) for batch in batches}
        self.mergeable = len(signatures) == 1 and None not in signatures
        self.streamed = spool is not None
        self._spool = spool  # its files live as long as it does
        self._merged = self.mergeable and not self.streamed
        self._held = [_concatenate(batches)] if self._merged else batches

    def batches(self) -> list[Any]:
        """The batches as given."""
        if not self._merged:
            return self._held
        starts = np.cumsum([0, *self.sizes[:-1]]).tolist()
        return [_slice(self._held[0], *cut) for cut in zip(starts, self.sizes, strict=True)]

    def blocks(self, size: int) -> list[Any]:
        """The same samples in the same order, cut into blocks of at most `size`. Needs `mergeable`."""
        return [_slice(part, start, size) for part in self._held for start in range(0, count(part), size)]

    def subset(self, n: int, batch_size: int, seed: int = 0) -> FrozenData:
        """At most n samples drawn at random, in batches of one size up to batch_size.

        Batches that are not mergeable are kept whole, evenly spaced ones where there are too many.
        """
        if self.mergeable:
            n = min(n, self.n)
            whole = self.chosen_batch(_chosen(self.n, n, seed))
            even = -(-n // -(-n // batch_size))
            return _frozen([_slice(whole, start, even) for start in range(0, n, even)])
        if n >= self.n:
            return self
        wanted = max(1, round(len(self._held) * n / self.n))
        picks = np.unique(np.linspace(0, len(self._held) - 1, wanted).round().astype(int))
        return _frozen([self._held[i] for i in picks])

    def chosen(self, rows: Tensor) -> FrozenData:
        """Some samples of mergeable data, by their indices, in one batch."""
        part = _frozen([self.chosen_batch(rows)])
        part.streamed = self.streamed
        return part

    def to(self, device: torch.device, dtype: torch.dtype) -> FrozenData:
        """On a device, floating-point tensors in dtype; the digest stays that of the data as given."""
        moved = copy.copy(self)
        leaves = [leaf for batch in self._held for leaf in tensors_of(batch)]
        moved.streamed = self.streamed or sum(leaf.nbytes for leaf in leaves) > _room(device)
        if not moved.streamed:
            moved._held = [
                map_tensors(batch, lambda t: t.to(device, dtype if t.is_floating_point() else None))
                for batch in self._held
            ]
        return moved

    def chosen_batch(self, chosen: Tensor | None) -> Any:
        """Some samples of mergeable data, all for None, as one batch in memory."""
        if chosen is None:
            return _concatenate(self._held)
        starts = np.cumsum([0, *(count(part) for part in self._held)])
        parts = []
        for part, start, end in zip(self._held, starts[:-1], starts[1:], strict=True):
            own = chosen[(chosen >= start) & (chosen < end)] - int(start)
            if len(own):
                parts.append(map_tensors(part, partial(_at, rows=own)))
        return _concatenate(parts)


def freeze(data: Any, *, batch_size: int, samples: int | None = None) -> FrozenData:
    """Draw the data once and keep it. The global random state is left alone.

    data: a tuple of tensors or arrays with one length (inputs ..., targets); a dict of them; a Dataset of
    samples; a DataLoader; or an iterable of batches, each a tensor, tuple, list or mapping.
    batch_size: for tensors and Datasets; loaders and iterables keep their own batches.
    samples: keep at most so many: a random subset (seed 0) of tensors and Datasets, the first ones of the rest.

    Raises DataError if there is nothing, or if it cannot be understood.
    """
    if samples is not None and (not isinstance(samples, int) or samples < 1):
        raise DataError(f"samples is {samples!r}; pass a whole number, 1 or more, or None for all.")
    if isinstance(data, FrozenData):
        return data if samples is None else data.subset(samples, batch_size)
    with untouched_rng():
        return _frozen(_take(_batches(data, batch_size, samples), samples))


def _batches(data: Any, batch_size: int, samples: int | None) -> Iterator[Any]:
    if isinstance(data, DataLoader):
        return _loaded(data)
    if isinstance(data, IterableDataset):
        return iter(DataLoader(data, batch_size=batch_size))
    if type(data) is TensorDataset:  # a subclass may do more in __getitem__
        data = data.tensors
    if isinstance(data, (tuple, Mapping)) and _all_arrays(data):
        return _split(data, batch_size, samples)
    if isinstance(data, Dataset) and isinstance(data, Sized):
        return _collated(data, batch_size, samples)
    if isinstance(data, (str, bytes, Tensor, np.ndarray, Mapping)) or not isinstance(data, Iterable):
        raise DataError(f"The data are a {type(data).__name__}. {ACCEPTED}")
    return iter(data)


def _loaded(loader: DataLoader) -> Iterator[Any]:
    """The loader's batches; its own generators are left where they were."""
    generators = {getattr(part, "generator", None) for part in (loader, loader.sampler, loader.batch_sampler)}
    states = [(generator, generator.get_state()) for generator in generators if generator is not None]
    try:
        yield from loader
    finally:
        for generator, state in states:
            generator.set_state(state)


def _all_arrays(data: tuple | Mapping) -> bool:
    """Whether the data are tensors that belong together: (inputs ..., targets) or a dict, nested inputs allowed."""
    values = list(data.values()) if isinstance(data, Mapping) else list(data)
    whole = [isinstance(v, (Tensor, np.ndarray)) and v.ndim > 0 for v in values]
    if not values or not whole[-1]:
        return False
    return all(
        is_array or (isinstance(value, (tuple, Mapping)) and _all_arrays(value))
        for is_array, value in zip(whole, values, strict=True)
    )


def _split(data: tuple | Mapping, batch_size: int, samples: int | None) -> Iterator[Any]:
    whole = map_tensors(data, lambda t: t)
    lengths = {len(t) for t in tensors_of(whole)}
    if len(lengths) != 1:
        raise DataError(
            f"The tensors hold different numbers of samples along dim 0: {sorted(lengths)}. They must agree."
        )
    (n,) = lengths
    chosen = _chosen(n, samples)
    if chosen is not None:
        whole = map_tensors(whole, lambda t: t[chosen])
    return (_slice(whole, start, batch_size) for start in range(0, len(next(tensors_of(whole))), batch_size))


def _collated(dataset: Any, batch_size: int, samples: int | None) -> Iterator[Any]:
    chosen = _chosen(len(dataset), samples)
    source = dataset if chosen is None else Subset(dataset, chosen.tolist())
    for start in range(0, len(source), batch_size):
        items = [source[i] for i in range(start, min(start + batch_size, len(source)))]
        try:
            yield default_collate(items)
        except (RuntimeError, TypeError) as error:
            raise DataError(
                f"The samples of {type(dataset).__name__} do not stack into a batch ({error}). "
                "Pass a DataLoader with your own collate_fn."
            ) from error


def _chosen(n: int, samples: int | None, seed: int = 0) -> Tensor | None:
    if samples is None or samples >= n:
        return None
    return torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(n)[:samples]))


def _take(batches: Iterator[Any], samples: int | None) -> Iterator[Any]:
    taken = 0
    for batch in batches:
        batch = map_tensors(batch, lambda t: t.detach().clone())
        size = count(batch)
        if samples is not None and taken + size > samples:
            size = samples - taken
            batch = _slice(batch, 0, size)
        if size:
            yield batch
        taken += size
        if samples is not None and taken >= samples:
            return


def _frozen(batches: Iterable[Any]) -> FrozenData:
    kept: list[Any] = []
    hasher, spool, size = hashlib.sha256(), None, 0
    for batch in batches:
        if isinstance(batch, (tuple, list)) and len(batch) and getattr(batch[-1], "ndim", 1) == 0:
            raise DataError(
                "The data hold single samples, not batches: the last entry of one is a single number. Pass a Dataset, "
                f"or stack the samples. {ACCEPTED}"
            )
        for leaf in tensors_of(batch):
            hash_tensor(hasher, leaf)
        hasher.update(repr(_form(batch)).encode())
        size += sum(leaf.nbytes for leaf in tensors_of(batch))
        if spool is None and size > HOST_SHARE * host_memory():
            spool = _Spool()
            kept = [map_tensors(earlier, spool.keep) for earlier in kept]
        kept.append(batch if spool is None else map_tensors(batch, spool.keep))
    if not kept:
        raise DataError(f"The data hold no samples: there is nothing to average the loss over. {ACCEPTED}")
    return FrozenData(kept, hasher.hexdigest(), spool)


class _Spool:
    """A folder of tensors that are read from disk as they are used; deleted when nothing needs it any more."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="landscape-data-")
        self._files = 0

    def keep(self, tensor: Tensor) -> Tensor:
        if not tensor.numel():
            return tensor
        path = f"{self._folder.name}/{self._files}"
        self._files += 1
        tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tofile(path)
        raw = torch.from_file(path, shared=False, size=tensor.nbytes, dtype=torch.uint8)
        return raw.view(tensor.dtype).view(tensor.shape)


def host_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _room(device: torch.device) -> float:
    """Bytes of data that may stay on a device."""
    return DEVICE_SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else np.inf


def map_tensors(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to each tensor of a batch; arrays become tensors, mappings dicts; the rest is kept."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, np.ndarray):
        return function(torch.as_tensor(np.ascontiguousarray(batch)))
    if isinstance(batch, Mapping):
        return {key: map_tensors(value, function) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(value, function) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(map_tensors(value, function) for value in batch)
    return batch


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """The tensors of a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_of(value)
    elif isinstance(batch, (tuple, list)):
        for value in batch:
            yield from tensors_of(value)


def count(batch: Any) -> int:
    """Samples in a batch: the length of its first tensor that has a dim 0."""
    for leaf in tensors_of(batch):
        if leaf.ndim:
            return len(leaf)
    raise DataError(f"A batch of type {type(batch).__name__} holds no tensor with a sample dimension. {ACCEPTED}")


def _signature(batch: Any) -> str | None:
    """Batches with equal signatures can be concatenated along dim 0; None where samples cannot be told apart."""
    n, parts = count(batch), []
    for leaf in tensors_of(batch):
        if not leaf.ndim or len(leaf) != n:
            return None
        parts.append(f"{leaf.dtype}{list(leaf.shape[1:])}")
    return None if _lists_values(batch) else f"{parts}{_form(batch)}"


def _form(batch: Any) -> Any:
    """The containers of a batch and whatever else than tensors is in them."""
    if isinstance(batch, Tensor):
        return "."
    if isinstance(batch, Mapping):
        return {key: _form(value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return [_form(value) for value in batch]
    return repr(batch)


def _lists_values(batch: Any) -> bool:
    """Whether a list or tuple holds anything but tensors and containers: names of samples, say."""
    if isinstance(batch, Mapping):
        return any(_lists_values(value) for value in batch.values())
    if isinstance(batch, (tuple, list)):
        return any(not isinstance(v, (Tensor, Mapping, tuple, list)) or _lists_values(v) for v in batch)
    return False


def _at(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor[rows.to(tensor.device)]


def _slice(batch: Any, start: int, size: int) -> Any:
    """Samples of a batch; tensors of another length are no samples and stay whole."""
    n = count(batch)
    return map_tensors(batch, lambda t: t[start : start + size] if t.ndim and len(t) == n else t)


def _concatenate(batches: list[Any]) -> Any:
    if len(batches) == 1:
        return batches[0]
    columns = [list(tensors_of(batch)) for batch in batches]
    merged = iter([torch.cat(column) for column in zip(*columns, strict=True)])
    return map_tensors(batches[0], lambda _: next(merged))
