"""Curvature against PyHessian and curvlinops with scipy's eigsh, interleaved in one process.

Products are counted and results judged by their residuals with our own product, once more, whoever computed them.
Times are CPU seconds of one thread, which other work on the machine disturbs least. PyHessian's density calls a
function that torch has removed; the benchmark puts an equal one in its place.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Callable, Generator
from itertools import islice
from statistics import median

import numpy as np
import torch
from curvlinops import HessianLinearOperator
from pyhessian import hessian as PyHessian
from scipy.sparse.linalg import eigsh
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from analysis import Problem
from analysis.curvature.density import density, quadrature, trace
from analysis.curvature.eigenpairs import Eigenpairs
from analysis.curvature.operators import Curvature
from benchmarks.networks import STAGES, digits, images, resnet20, stages
from benchmarks.row import emit

TOP = 5
RESIDUAL = 1e-3
BLOCKS = 15
PATIENCE = 5  # times our own time, for a run of PyHessian's on a large network
LOSS = nn.CrossEntropyLoss()
torch.eig = lambda matrix, eigenvectors: _eig(matrix)  # type: ignore[attr-defined]


def run(quick: bool) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
    trained = 3 if quick else len(STAGES)
    perceptrons = list(islice(stages([64, 256, 256, 10]), trained))
    samples = 64 if quick else 256
    convolutional = f"ResNet-20, {samples} images", resnet20().eval(), images(samples)
    product("MLP 64-256-256-10", perceptrons[2][1], digits(), BLOCKS)
    product(*convolutional, blocks=5 if quick else BLOCKS)
    counts = []
    for stage, net in perceptrons[2:3] if quick else perceptrons:
        counts.append(top("MLP 64-256-256-10", stage, net, digits(), 3 if quick else 5, 0 if quick else 3))
    print_counts(counts)
    small = list(islice(stages([64, 16, 10]), trained))
    for stage, net in small[2:3] if quick else small:
        spectrum("MLP 64-16-10", stage, net, 4 if quick else 20)
    if not quick:
        top(convolutional[0], "random weights", *convolutional[1:], blocks=1, decade=5)


def product(name: str, net: nn.Module, data: tuple[Tensor, Tensor], blocks: int) -> None:
    """One product, in gradients."""
    operator = Curvature(Problem(net, "cross_entropy", data, metrics=[], batchnorm=_policy(net)))
    vector = torch.randn(operator.shape[1])
    parameters = [p for p in net.parameters() if p.requires_grad]

    def gradient() -> None:
        torch.autograd.grad(LOSS(net(data[0]), data[1]), parameters)

    operator.matvec(vector)
    gradient()
    ours, theirs = [], []
    for _ in range(blocks):
        ours.append(_seconds(lambda: operator.matvec(vector)))
        theirs.append(_seconds(gradient))
    ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
    emit(f"one product: {name}", median(ours), "a gradient", median(theirs), gradients=round(ratio, 2), blocks=blocks)


def top(
    name: str, stage: str, net: nn.Module, data: tuple[Tensor, Tensor], blocks: int, decade: int
) -> tuple[int, int]:
    """The five largest eigenpairs to a residual of 1e-3 of their value; ours are verified, the others' are not.

    blocks: how often all but PyHessian are run, by turns.
    decade: of the loosest tolerance that PyHessian is tried with, 3 for 1e-3; 0 is without it.

    The overhead is all of our time that is neither in products nor in the graph that these are taken from: the float
    noise counts in.
    """
    problem = Problem(net, "cross_entropy", data, metrics=[], batchnorm=_policy(net))
    judge, in_products = Curvature(problem), 0.0

    def ours() -> tuple[np.ndarray, Tensor, int]:
        nonlocal in_products
        start = time.process_time()
        operator = Curvature(problem)
        in_products += time.process_time() - start
        product = operator.steps

        def timed(vector: Tensor) -> Generator[None, None, Tensor]:
            nonlocal in_products
            start = time.process_time()
            result = yield from product(vector)
            in_products += time.process_time() - start
            return result

        operator.steps = timed  # type: ignore[method-assign]
        solver = Eigenpairs(operator, largest=TOP, smallest=0, tolerance=RESIDUAL)
        *_, ds = solver.steps()
        pairs = sorted(solver.found, key=lambda p: -p.value)[:TOP]
        vectors = torch.stack([p.vector for p in pairs]).float()
        return np.array([p.value for p in pairs]), vectors, ds.attrs["products"]

    def curvlinops() -> tuple[np.ndarray, Tensor, int]:
        own = copy.deepcopy(net).eval()
        operator = HessianLinearOperator(own, LOSS, [*own.parameters()], [data], check_deterministic=False)
        calls = [0]
        matvec = operator.to_scipy().matvec if hasattr(operator, "to_scipy") else operator.matvec

        def counted(v: np.ndarray) -> np.ndarray:
            calls[0] += 1
            return matvec(v)

        return *_eigsh(counted, judge.shape[1]), calls[0]

    def kept_graph() -> tuple[np.ndarray, Tensor, int]:
        operator = Curvature(problem)
        before = operator.products
        scipy = operator.to_scipy()
        values, vectors = _eigsh(scipy.matvec, judge.shape[1])
        return values, vectors, operator.products - before - 1  # one for its self-test

    solvers = {"ours": ours, "curvlinops-for-pytorch": curvlinops, "eigsh on our product": kept_graph}
    times: dict[str, list[float]] = {label: [] for label in solvers}
    found, overheads = {}, []
    for _ in range(blocks):
        for label, solve in solvers.items():
            in_products, start = 0.0, time.process_time()
            found[label] = solve()
            times[label].append(time.process_time() - start)
            if label == "ours":
                overheads.append(1 - in_products / times[label][-1])
    own, own_s, own_residual = found["ours"], median(times["ours"]), _residual(judge, *found["ours"][:2])

    def compare(peer: str, theirs: list[float], products: int, residual: float, **more: bool) -> None:
        share = median(a / b for a, b in zip(times["ours"], theirs, strict=True))
        emit(
            f"five largest eigenpairs: {name}, {stage}", own_s, peer, median(theirs), time_share=round(share, 3),
            ours_evaluations=own[2], peer_evaluations=products, ours_error=own_residual, peer_error=residual,
            overhead=round(median(overheads), 3), blocks=blocks, **more,
        )  # fmt: skip

    for peer in ("curvlinops-for-pytorch", "eigsh on our product"):
        compare(peer, times[peer], found[peer][2], _residual(judge, *found[peer][:2]))
    if decade:
        seconds, products, residual, finished = _pyhessian(net, data, judge, decade, max(60.0, PATIENCE * own_s))
        more = {} if finished else {"peer_s_is_a_lower_bound": True}
        compare("pyhessian", [seconds] * blocks, products, residual, **more)
    return own[2], found["eigsh on our product"][2]


def print_counts(counts: list[tuple[int, int]]) -> None:
    shares = [ours / theirs for ours, theirs in counts]
    print(f'{{"name": "verified products over eigsh", "median": {median(shares):.3f}, "worst": {max(shares):.3f}}}')


def spectrum(name: str, stage: str, net: nn.Module, seeds: int) -> None:
    """Density and trace against the dense truth."""
    x, y = digits()
    double = Curvature(Problem(net, "cross_entropy", (x, y), metrics=[], dtype=torch.float64))
    matrix = double.matmat(torch.eye(double.shape[1], dtype=torch.float64))
    true = torch.linalg.eigvalsh((matrix + matrix.T) / 2).numpy()
    operator = Curvature(Problem(net, "cross_entropy", (x, y), metrics=[]))
    ours, theirs, traces, times, spent = [], [], [], [[], []], []
    for seed in range(seeds):
        start = time.process_time()
        *_, ds = density(operator, seed=seed)
        times[0].append(time.process_time() - start)
        spent.append(ds.attrs["products"])
        ours.append(wasserstein_distance(*_placed(true, *quadrature(ds))))
        torch.manual_seed(seed)
        start = time.process_time()
        nodes, weights = PyHessian(copy.deepcopy(net), LOSS, data=(x, y), cuda=False).density(iter=50)
        times[1].append(time.process_time() - start)
        theirs.append(wasserstein_distance(*_placed(true, np.array(nodes[0]), np.array(weights[0]))))
        *_, ds = trace(operator, 60, seed=seed)
        traces.append(abs(float(ds.trace) - true.sum()) / abs(true.sum()))
    emit(
        f"spectral density: {name}, {stage}", median(times[0]), "pyhessian", median(times[1]), seeds=seeds,
        ours_evaluations=int(median(spent)), peer_evaluations=50, ours_error=median(ours) / true[-1],
        peer_error=median(theirs) / true[-1], error="Wasserstein-1 over the largest eigenvalue",
        error_share=round(median(ours) / median(theirs), 3), trace_error_at_60=round(median(traces), 5),
    )  # fmt: skip


def _placed(true: np.ndarray, nodes: np.ndarray, weights: np.ndarray) -> tuple:
    return true, nodes, np.ones_like(true), weights / weights.sum()


def _eigsh(matvec: Callable[[np.ndarray], np.ndarray], n: int) -> tuple[np.ndarray, Tensor]:
    from scipy.sparse.linalg import LinearOperator

    operator = LinearOperator((n, n), matvec=lambda v: matvec(v.astype(np.float32)), dtype=np.float32)
    start = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    values, vectors = eigsh(operator, k=TOP, which="LA", tol=RESIDUAL, v0=start)
    return values[::-1].copy(), torch.from_numpy(vectors.T[::-1].copy())


class _Enough(Exception):
    """The time that a peer is given is over."""


def _pyhessian(
    net: nn.Module, data: tuple[Tensor, Tensor], judge: Curvature, first: int, most_s: float
) -> tuple[float, int, float, bool]:
    """Its power iteration at the loosest tolerance, by decades, that reaches the residual: that run's time.

    A run that takes longer is ended: then that time, its products, the last tolerance's residual, and False.
    """
    module = sys.modules["pyhessian.hessian"]  # the package hides it behind its class
    calls, product, residual, start = 0, module.hessian_vector_product, np.nan, 0.0

    def counted(*args):
        nonlocal calls
        calls += 1
        if time.process_time() - start > most_s:
            raise _Enough
        return product(*args)

    module.hessian_vector_product = counted
    try:
        for decade in range(first, 10):
            calls = 0
            torch.manual_seed(0)
            start = time.process_time()
            solver = PyHessian(copy.deepcopy(net), LOSS, data=data, cuda=False)
            values, vectors = solver.eigenvalues(maxIter=2000, tol=10.0**-decade, top_n=TOP)
            seconds = time.process_time() - start
            flat = torch.stack([torch.cat([part.flatten() for part in v]) for v in vectors])
            residual = _residual(judge, np.array(values), flat)
            if residual <= 1.15 * RESIDUAL:
                break
    except _Enough:
        return time.process_time() - start, calls, residual, False
    finally:
        module.hessian_vector_product = product
    return seconds, calls, residual, True


def _residual(judge: Curvature, values: np.ndarray, vectors: Tensor) -> float:
    """The worst |Hv - lambda v| / |lambda|."""
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    rests = [judge.matvec(v) - float(value) * v for v, value in zip(vectors, values, strict=True)]
    return max(float(r.norm()) / abs(float(value)) for r, value in zip(rests, values, strict=True))


def _policy(net: nn.Module) -> str | None:
    return "frozen" if any(isinstance(m, nn.BatchNorm2d) for m in net.modules()) else None


def _eig(matrix: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], 1), vectors


def _seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start
