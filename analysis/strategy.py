"""How points are evaluated: what there is to choose, and the measurement that chooses."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .data import count, tensors_of
from .reuse import Blocks

if TYPE_CHECKING:
    from .evaluate import Evaluator

BLOCK_BYTES = {"cpu": 32 * 2**20, "cuda": 2**30}
PROBE_SAMPLES = {"cpu": 4096, "cuda": 65536}
LONG_PROBE_SECONDS = 0.1
CLEARLY = 0.95  # a way must be at least this much faster to be preferred
POINTS_AT_ONCE = (8, 32, 128, 512)


@dataclass(frozen=True)
class Strategy:
    """How points are evaluated. Given the same strategy, two CPU runs are bit-identical.

    block: samples a forward pass; None keeps the batches as given.
    threads: torch's intra-op threads.
    points: points a forward pass, batched by `torch.func.vmap` where there are more than one.
    reused: names of the first linear layers that are summed from products held for the axes.
    """

    block: int | None
    threads: int
    points: int = 1
    reused: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Strategy:
        """From the record in a result's provenance."""
        return cls(**{**record, "reused": tuple(record.get("reused", ()))})

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "reused": list(self.reused)}

    def smaller(self) -> Strategy | None:
        """The next one that needs less memory, or None."""
        if self.points > 1:
            return replace(self, points=self.points // 2)
        if self.reused:
            return replace(self, reused=())
        if self.block is not None and self.block > 1:
            return replace(self, block=self.block // 2)
        return None


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the device or of the host."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


def fastest(evaluator: Evaluator) -> Strategy:
    """By short measurements on the first samples: the block, then the first layers, then the points at once.

    Points are batched on a GPU alone. On a CPU that lost on every network measured, from 2x128 (0.36 to 0.57 ms a
    point) to a residual CNN (4.9 to 6.2 ms): the products are no larger than the cache to begin with.
    """
    best, seconds = _block(evaluator)
    blocks = _first(evaluator.problem.blocks(best.block))
    reused = evaluator.first_layers(blocks)
    if reused:
        candidate = replace(best, reused=reused)
        now = _seconds(evaluator, candidate, blocks)
        if now < CLEARLY * seconds:
            best, seconds = candidate, now
    if evaluator.problem.device.type == "cuda" and evaluator.can_batch:
        for points in POINTS_AT_ONCE:
            candidate = replace(best, points=points)
            now = _seconds(evaluator, candidate, blocks)
            if now >= CLEARLY * seconds:
                break
            best, seconds = candidate, now
    return best


def _block(evaluator: Evaluator) -> tuple[Strategy, float]:
    """Blocks from the problem's own batch size upwards, doubled as long as that is faster; seconds a point of one.

    What counts is the time of so many blocks as hold all samples.
    """
    problem, threads = evaluator.problem, torch.get_num_threads()
    if not problem.free_blocks:
        plain = Strategy(None, threads)
        return plain, _seconds(evaluator, plain, _first(problem.blocks(None)))
    kind, n = problem.device.type, problem.n
    given = max(problem.data.sizes)
    sample = problem.data.blocks(given)[0]
    bytes_each = sum(leaf.nbytes for leaf in tensors_of(sample)) / count(sample)
    largest = min(n, PROBE_SAMPLES.get(kind, n), max(1, int(BLOCK_BYTES.get(kind, 2**30) / bytes_each)))
    size = min(given, largest)
    best, seconds, of_one = None, np.inf, np.inf
    while True:
        candidate = Strategy(size, threads)
        one = _seconds(evaluator, candidate, _first(problem.blocks(size)))
        now = one * -(-n // size)
        if best is not None and now > CLEARLY * seconds:
            break
        best, seconds, of_one = candidate, now, one
        if size == largest or one > LONG_PROBE_SECONDS:
            break
        size = min(2 * size, largest)
    return best, of_one


def _first(blocks: Blocks) -> Blocks:
    """The first block of the main data alone."""
    return {"": blocks[""][:1]}


def _seconds(evaluator: Evaluator, strategy: Strategy, blocks: Blocks) -> float:
    """Time of one point on some blocks, the better of two; infinite where the strategy fails."""
    best = np.inf
    try:
        if strategy.points == 1 and not strategy.reused:
            evaluator.use(strategy, blocks)
        elif not evaluator.trusted(strategy, blocks):
            return best
        for _ in range(2):
            start = time.perf_counter()
            evaluator.probe(strategy.points)
            best = min(best, (time.perf_counter() - start) / strategy.points)
            if best > LONG_PROBE_SECONDS:
                break
    except Exception as error:
        if strategy.points == 1 and not strategy.reused and not out_of_memory(error):
            raise
    return best
