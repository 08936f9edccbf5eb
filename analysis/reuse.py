"""First layers on a subspace: linear layers that see the data as they are need no product at each point.

Such a layer's output is affine in its weights. At origin + sum of c_i axis_i it is P_0 + sum of c_i P_i, with
P_0 the layer's output at the origin's weights and P_i at those of axis i alone, each computed once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .data import tensors_of
from .errors import LandscapeError

if TYPE_CHECKING:
    from .replica import Replica

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
HELD_BYTES = 256 * 2**20
COMPARED = 4096  # values of an input
WORTH = 0.1  # of a CPU's time for the batches, if that is above QUICK seconds: less is not worth a try
QUICK = 0.02

Blocks = dict[str, list[Any]]
Key = tuple[str, int]  # a layer, and the frozen batch


class FirstLayers:
    """Some linear layers of a replica's network, computed from held products wherever they see the input of these.

    coordinates: where on the subspace the network stands, numbers or a tensor [axes]; None, as everywhere off the
    subspace, computes the layers from their weights.

    Raises LandscapeError for names of other modules than linear layers with weights of their own.
    """

    def __init__(self, replica: Replica, names: Collection[str], parts: Sequence[Tensor], blocks: Blocks):
        self.coordinates: Sequence[float] | Tensor | None = None
        self._replica = replica
        self._held: dict[Key, tuple[Tensor, list[Tensor]]] = {}
        modules = dict(replica.model.named_modules())
        self._layers = {name: modules[name] for name in names if _linear(modules.get(name))}
        if len(self._layers) < len(names):
            raise LandscapeError(
                f"The strategy sums the layers {list(names)} from held products, which this model has not or uses "
                "otherwise; leave the strategy out to measure anew."
            )
        if not names:
            return

        def hold(name: str, layer: nn.Module, x: Tensor, _: Tensor) -> None:
            key = name, id(replica.batch)
            if key in self._held:
                return
            products = []
            for part in parts:
                replica.flat.copy_(part)
                products.append(layer.forward(x))
            replica.flat.copy_(parts[0])
            self._held[key] = _kept(replica, x), products

        replica.flat.copy_(parts[0])
        with _watched(self._layers, hold):
            replica.totals(blocks)
        for name, layer in self._layers.items():
            layer.forward = self._forward(name, layer)

    def close(self) -> None:
        """Give the layers their own forward back, and let go of the products."""
        self._held.clear()
        for layer in self._layers.values():
            layer.__dict__.pop("forward", None)

    def _forward(self, name: str, layer: nn.Module) -> Callable[[Tensor], Tensor]:
        own = layer.forward

        def forward(x: Tensor) -> Tensor:
            seen, products = self._held.get((name, id(self._replica.batch)), (None, []))
            if seen is None or self.coordinates is None or not _same(x, seen):
                return own(x)
            result = products[0]
            for c, product in zip(self.coordinates, products[1:], strict=True):
                result = result + c * product if isinstance(c, Tensor) else torch.add(result, product, alpha=c)
            return result

        return forward


def first_layers(replica: Replica, blocks: Blocks, places: Sequence[Tensor], parts: int) -> tuple[str, ...]:
    """Names of the linear layers whose first input is the same at each of some places in weight space.

    As far as a part of the input shows: a layer that is held looks at the whole each time. Without those of which
    `parts` products, over all of the problem's samples, would take more than HELD_BYTES; none where a try would
    take longer than it is worth.
    """
    layers = {name: module for name, module in replica.model.named_modules() if _linear(module)}
    seen: list[dict[Key, Tensor]] = []
    costs: dict[str, float] = {}
    starts: dict[str, float] = {}
    seconds: dict[str, float] = {}

    def begin(name: str) -> None:
        starts[name] = time.perf_counter()

    def look(name: str, layer: nn.Module, x: Tensor, out: Tensor) -> None:
        seconds[name] = time.perf_counter() - starts[name]
        seen[-1].setdefault((name, id(replica.batch)), _some(x))
        own = 0 if _of_batch(replica, x) else x.nbytes
        costs[name] = (parts * out.nbytes + own) / len(out) if out.dtype == replica.problem.dtype else torch.inf

    with _watched(layers, look, begin):
        for place in places:
            seen.append({})
            replica.flat.copy_(place)
            start = time.perf_counter()
            replica.run(blocks)
            whole = time.perf_counter() - start
    problem, (first, *others) = replica.problem, seen
    calibration = (problem.calibration,) if problem.calibration else ()
    kept, room = [], HELD_BYTES / sum(part.n for part in (problem.data, *problem.also.values(), *calibration))
    for name in dict.fromkeys(key[0] for key in first):
        own = [(key, x) for key, x in first.items() if key[0] == name]
        same = all(key in other and torch.equal(other[key], x) for key, x in own for other in others)
        if same and costs[name] < room:
            room -= costs[name]
            kept.append(name)
    little = whole > QUICK and sum(seconds[name] for name in kept) < WORTH * whole
    return () if little and problem.device.type == "cpu" else tuple(kept)


@contextmanager
def _watched(
    layers: dict[str, nn.Module],
    call: Callable[[str, nn.Module, Tensor, Tensor], None],
    begin: Callable[[str], None] = lambda name: None,
) -> Iterator[None]:
    """Layers whose name is told before they are called, and with self, input and output afterwards."""
    handles = [
        handle
        for name, layer in layers.items()
        for handle in (
            layer.register_forward_pre_hook(lambda layer, args, name=name: begin(name)),
            layer.register_forward_hook(lambda layer, args, out, name=name: call(name, layer, args[0], out)),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _linear(module: nn.Module | None) -> bool:
    """Whether a module is a plain linear layer whose weights are all parameters."""
    if module is None or type(module) not in LINEAR or set(module._parameters) != {"weight", "bias"}:
        return False
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _of_batch(replica: Replica, x: Tensor) -> bool:
    """Whether a tensor lies in the memory of the frozen batch, which nothing writes to."""
    frozen = {leaf.untyped_storage().data_ptr() for leaf in tensors_of(replica.batch)}
    return x.untyped_storage().data_ptr() in frozen


def _kept(replica: Replica, x: Tensor) -> Tensor:
    return x if _of_batch(replica, x) else x.clone()


def _some(x: Tensor) -> Tensor:
    """A copy of a few thousand of a tensor's values, from all over it."""
    return x.flatten()[:: max(1, x.numel() // COMPARED)].clone()


def _same(x: Tensor, seen: Tensor) -> bool:
    """Whether an input is the one that was seen; not where vmap has one for each point."""
    if torch._C._functorch.is_batchedtensor(x) or x.shape != seen.shape:
        return False
    return (x.data_ptr(), x.stride()) == (seen.data_ptr(), seen.stride()) or torch.equal(x, seen)
