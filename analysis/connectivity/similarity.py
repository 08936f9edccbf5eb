"""How alike the layers of two networks represent the same data: linear centred kernel alignment."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ..checkpoints import Checkpoint
from ..errors import LandscapeError
from ..problem import Problem
from ..replica import Replica
from ..results import provenance_json
from ..strategy import Strategy
from ..subspace import Line
from .damage import refuse_damaged
from .running import Progress


def linear_cka(problem: Problem, first: Checkpoint, second: Checkpoint, *, samples: int = 1000) -> Iterator[xr.Dataset]:
    """Linear CKA between the outputs of every layer of one checkpoint and of every layer of another.

    CKA(F, G) = |F'G|^2 / (|F'F| |G'G|), Frobenius norms, of features F [n, p], G [n, q] less their means (Kornblith et
    al. 2019, arXiv:1905.00414): 1 for features that are equal up to an orthogonal map and a scale. It is computed from
    the n x n inner products of samples. A layer is a module with parameters of its own that puts out one tensor
    [n, ...] and runs once; all of what it puts out for a sample counts. Invariant under permutations of units.

    samples: the first so many of the problem's data; their n x n matrices are held for each layer.

    Yields Datasets that get better as more of the samples are seen: ``cka`` [layer, other], NaN for a layer that is
    constant. Attributes: title, status ("running" or "done"), progress, evaluations (batches), samples, provenance.

    Close it to cancel. Raises LandscapeError for fewer than two samples, equal checkpoints, and where no layer counts.
    """
    if not isinstance(samples, int) or samples < 2:
        raise LandscapeError(f"samples is {samples!r}; expected a whole number of at least 2.")
    refuse_damaged(first, second)
    return _compared(problem, Line.through(first, second), samples)


def _compared(problem: Problem, line: Line, samples: int) -> Iterator[xr.Dataset]:
    networks = [_Layers(problem, checkpoint) for checkpoint in line.markers]
    batches = problem.data.batches()
    progress, seen = Progress(2 * len(batches)), 0
    for number, batch in enumerate(batches, 1):
        for network in networks:
            network.see(batch, samples - seen)
            due = progress.due()
        seen = networks[0].seen
        if number == len(batches) or seen >= samples:
            yield _dataset(problem, line, networks, progress, "done", seen)
            return
        if due and seen > 1:
            yield _dataset(problem, line, networks, progress, "running", seen)


class _Layers:
    """What the layers of a network put out, sample by sample."""

    def __init__(self, problem: Problem, checkpoint: Checkpoint):
        self.replica = Replica(problem)
        self.replica.load(checkpoint)
        self.replica.settle()
        self.now: dict[str, list[Tensor]] = {}
        self.features: dict[str, list[Tensor]] = {}
        for name, module in self.replica.model.named_modules():
            if name and next(module.parameters(recurse=False), None) is not None:
                module.register_forward_hook(self._keep(name))

    @property
    def seen(self) -> int:
        return sum(len(part) for part in next(iter(self.features.values()), []))

    def _keep(self, name: str):
        def hook(module: nn.Module, args: tuple, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim > 1:
                self.now.setdefault(name, []).append(output.detach())

        return hook

    def see(self, batch: object, most: int) -> None:
        self.now = {}
        with self.replica.seeded(), self.replica.own_context(grad=False):
            self.replica.output(self.replica.here(batch))
        once = {name: outputs[0] for name, outputs in self.now.items() if len(outputs) == 1}
        n = max((len(output) for output in once.values()), default=0)
        once = {name: output for name, output in once.items() if len(output) == n}
        if not once:
            raise LandscapeError("No module with parameters puts out one tensor of all samples: there is no layer.")
        for name, output in once.items():
            self.features.setdefault(name, []).append(output[:most].flatten(1).double().cpu())

    def grams(self) -> tuple[list[str], Tensor]:
        """Layers, and their centred inner products of samples [layers, n * n], each of norm 1."""
        rows = []
        for parts in self.features.values():
            x = torch.cat(parts)
            x = x - x.mean(0)
            rows.append((x @ x.T).flatten())
        stacked = torch.stack(rows)
        return list(self.features), stacked / stacked.norm(dim=1, keepdim=True)


def _dataset(
    problem: Problem, line: Line, networks: list[_Layers], progress: Progress, status: str, seen: int
) -> xr.Dataset:
    (names, one), (others, other) = (network.grams() for network in networks)
    return xr.Dataset(
        {"cka": (("layer", "other"), (one @ other.T).numpy(), {"long_name": "linear CKA", "units": ""})},
        coords={"layer": np.array(names, dtype=object), "other": np.array(others, dtype=object)},
        attrs={
            "title": f"linear CKA of the layers of {line.markers[0].name} and {line.markers[1].name}",
            **progress.attrs(status),
            "samples": seen,
            "provenance": provenance_json(
                problem, line, Strategy(None, torch.get_num_threads()).record(), samples=seen
            ),
        },
    )
