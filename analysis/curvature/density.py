"""The spectral density of a curvature matrix, and its trace, from few products."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..errors import LandscapeError
from ..provenance import versions
from .eigenpairs import Eigenpairs, basis_home, heartbeats
from .krylov import Krylov
from .operators import Curvature


def density(
    operator: Curvature,
    pairs: Eigenpairs | None = None,
    *,
    deflate: int = 25,
    probes: int = 1,
    degree: int = 25,
    seed: int = 0,
) -> Iterator[xr.Dataset]:
    """Deflated stochastic Lanczos quadrature, a generator of better and better Datasets.

    A Krylov space is found first and its Ritz values count exactly: the largest are eigenvalues by then, and as one
    vector alone ties the space to its complement, the spectrum moves by no more than twice that coupling over the
    number of parameters. Random probes in the complement give the rest, each as the nodes and weights of a Gauss
    quadrature (Ubaru, Chen, Saad 2017, SIAM J. Matrix Anal. Appl. 38). The sum over all nodes of weight x f(node)
    estimates the mean of f over the eigenvalues. Raw nodes and weights are kept, so that any smoothing is a matter of
    display.

    pairs: an earlier run of `Eigenpairs`, whose vectors are deflated beforehand, at no cost.
    deflate: products spent on the Krylov space. probes, degree: random vectors, and products for each.

    Yields Datasets with ``deflated`` and ``deflated_residual`` [ritz], and ``node`` and ``weight`` [probe, step], NaN
    where not computed. Raises LandscapeError for bad arguments.
    """
    n = operator.shape[1]
    if min(probes, degree) < 1 or deflate < 0:
        raise LandscapeError(f"probes is {probes}, degree {degree}, deflate {deflate}; expected 1, 1 and 0 or more.")
    if operator.rows != operator.columns:
        raise LandscapeError("A spectral density needs a square matrix: the same layers as rows and columns.")
    known = len(pairs.found) if pairs is not None else 0
    return _density(operator, pairs, min(deflate, n - known), probes, min(degree, n), seed)


def _density(
    operator: Curvature, pairs: Eigenpairs | None, deflate: int, probes: int, degree: int, seed: int
) -> Iterator[xr.Dataset]:
    began, n, before = time.perf_counter(), operator.shape[1], operator.products
    facts = {**operator.provenance(), "seed": seed, "versions": versions()}
    said = json.dumps({**facts, "created": datetime.now(UTC).isoformat(timespec="seconds")})
    known = [(pair.value, pair.residual) for pair in pairs.found] if pairs is not None else []
    deflated = np.array(known).reshape(-1, 2)
    nodes, weights = np.full((2, probes, degree), np.nan)
    planned = deflate + probes * degree

    def dataset(status: str) -> xr.Dataset:
        spent = operator.products - before
        units = {"units": "loss / weight²"}
        return xr.Dataset(
            {
                "deflated": ("ritz", deflated[:, 0], {"long_name": "deflated Ritz value", **units}),
                "deflated_residual": ("ritz", deflated[:, 1], {"long_name": "norm of its residual", **units}),
                "node": (("probe", "step"), nodes.copy(), {"long_name": "node", **units}),
                "weight": (("probe", "step"), weights.copy(), {"long_name": "share of the eigenvalues"}),
            },
            attrs={
                "title": f"{operator.kind} spectral density at {operator.checkpoint.name}",
                "status": status,
                "progress": 1.0 if status != "running" else min(0.999, spent / planned),
                "products": spent,
                "parameters": n,
                "elapsed_s": time.perf_counter() - began,
                "provenance": said,
            },
        )

    running = partial(dataset, "running")
    generator = torch.Generator().manual_seed(seed)
    device = basis_home(operator, (deflate + degree + len(known) + 1) * n * operator.dtype.itemsize)
    locked = pairs.locked if pairs is not None else None

    def start() -> torch.Tensor:
        return torch.randn(n, generator=generator, dtype=torch.float64).to(device, operator.dtype)

    norm = max((abs(value) for value, _ in known), default=0.0)
    space = Krylov(start(), deflate + degree, 1e4 * operator.problem.eps, locked, norm)
    if deflate:
        while space.filled < deflate and space.has_more:
            product = yield from heartbeats(operator.steps(space.vector), running)
            space.add(product)
            values, residuals, _ = space.ritz()
            deflated = np.concatenate([np.array(known).reshape(-1, 2), np.stack([values, residuals], 1)])
            yield dataset("running")
    rest = n - len(deflated)
    for probe in range(probes if rest else 0):
        if deflate or probe:
            space.lock(range(0 if probe else space.filled), start())
        while space.filled < min(degree, space.size) and space.has_more:
            product = yield from heartbeats(operator.steps(space.vector), running)
            space.add(product)
            values, _, coordinates = space.ritz()
            nodes[probe, : len(values)] = values
            weights[probe, : len(values)] = coordinates[0] ** 2 * rest / n
            yield dataset("running")
    yield dataset("done")


def quadrature(ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All nodes of a density, and their weights, which sum to 1: the deflated values and the mean over probes."""
    deflated = ds.deflated.values
    known = np.isfinite(ds.node.values)
    probes = max(1, int(known.any(1).sum()))
    nodes = np.concatenate([deflated, ds.node.values[known]])
    weights = np.concatenate([np.full(len(deflated), 1 / ds.attrs["parameters"]), ds.weight.values[known] / probes])
    return nodes, weights


def effective_dimension(ds: xr.Dataset, scale: float) -> float:
    """Sum of lambda / (lambda + scale) over the positive eigenvalues of a density (MacKay 1992).

    scale: in units of the eigenvalues, as the precision of a Gaussian prior.
    """
    if not scale > 0:
        raise LandscapeError(f"scale is {scale}; expected a positive number in units of the eigenvalues.")
    nodes, weights = quadrature(ds)
    positive = nodes.clip(0)
    return float(ds.attrs["parameters"] * (weights * positive / (positive + scale)).sum())


def smoothed(ds: xr.Dataset, at: np.ndarray, width: float) -> np.ndarray:
    """The density at some eigenvalues [m], each node a Gaussian of standard deviation `width`; integrates to 1."""
    nodes, weights = quadrature(ds)
    shifted = (at[:, None] - nodes) / width
    return (np.exp(-0.5 * shifted**2) @ weights) / (width * np.sqrt(2 * np.pi))


def trace(operator: Curvature, products: int = 60, seed: int = 0) -> Iterator[xr.Dataset]:
    """Trace by XTrace (Epperly, Tropp, Webber 2024, arXiv:2301.07825), with its standard error; a generator.

    Half of the products go to random vectors, half to an orthonormal basis of what those gave; each random vector is
    left out once and judges the rest. The Frobenius norm and the trace of each parameter come with it, from the
    random vectors alone (Hutchinson). Two thirds of the products are with the Gauss-Newton matrix where it has the same
    diagonal (`Curvature.of_same_trace`), and a third with the Hessian, for the norm.

    Yields Datasets with ``trace`` and ``trace_se``, ``frobenius`` and ``frobenius_se``, and ``layer_trace`` and
    ``layer_trace_se`` [layer]. Raises LandscapeError for fewer than 4 products or a matrix that is not square.
    """
    if operator.rows != operator.columns:
        raise LandscapeError("A trace needs a square matrix: the same layers as rows and columns.")
    if products < 4:
        raise LandscapeError(f"products is {products}; expected 4 or more.")
    return _trace(operator, products, seed)


def _trace(operator: Curvature, products: int, seed: int) -> Iterator[xr.Dataset]:
    began, before, n = time.perf_counter(), operator.products, operator.shape[1]
    facts = {**operator.provenance(), "seed": seed, "versions": versions()}
    said = json.dumps({**facts, "created": datetime.now(UTC).isoformat(timespec="seconds")})
    exact = products >= 2 * n
    matrix = operator if exact or products < 12 else operator.of_same_trace()
    borrowed = matrix is not operator
    count = min(products // (3 if borrowed else 2), n)
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(n, count, generator=generator, dtype=torch.float64).to(operator.device)
    random *= n**0.5 / random.norm(dim=0)
    images = torch.zeros_like(random)
    slices = operator.layer_slices()
    estimates = np.full(count, np.nan)
    squares: list[float] = []  # of the lengths of random vectors' images by the operator itself

    def dataset(status: str, done: int) -> xr.Dataset:
        own = random[:, :done] * images[:, :done]
        by_layer = {name: own[part].sum(0).cpu().numpy() for name, part in slices.items()}
        first = own.sum(0).cpu().numpy()
        whole = estimates if np.isfinite(estimates).all() else first
        frobenius, frobenius_se = _mean(np.array(squares))
        spent = operator.products - before + (matrix.products if borrowed else 0)
        means = [_mean(values) for values in by_layer.values()]
        units = {"units": "loss / weight²"}
        return xr.Dataset(
            {
                "trace": ((), _mean(whole)[0], {"long_name": "trace", **units}),
                "trace_se": ((), _mean(whole)[1], {"long_name": "standard error of the trace", **units}),
                "frobenius": ((), frobenius**0.5, {"long_name": "Frobenius norm", **units}),
                "frobenius_se": ((), frobenius_se / (2 * max(frobenius, 1e-300) ** 0.5), units),
                "layer_trace": ("layer", np.array([m for m, _ in means]), {"long_name": "trace of the block", **units}),
                "layer_trace_se": ("layer", np.array([e for _, e in means]), units),
            },
            coords={"layer": list(by_layer)},
            attrs={
                "title": f"{operator.kind} trace at {operator.checkpoint.name}",
                "status": status,
                "progress": 1.0 if status == "done" else spent / ((3 if borrowed else 2) * count),
                "products": spent,
                "trace_of": matrix.kind,
                "elapsed_s": time.perf_counter() - began,
                "provenance": said,
            },
        )

    for i in range(count):
        beat = partial(dataset, "running", max(i, 1))
        images[:, i] = yield from heartbeats(matrix.steps(random[:, i]), beat)
        if not borrowed:
            squares.append(float(images[:, i].square().sum()))
        yield dataset("running", i + 1)
    basis, triangle = torch.linalg.qr(images)
    again = torch.zeros_like(basis)
    for i in range(count):
        again[:, i] = yield from heartbeats(matrix.steps(basis[:, i]), partial(dataset, "running", count))
        yield dataset("running", count)
    estimates[:] = _leave_one_out(random, images, basis, triangle, basis.T @ again)
    for i in range(count if borrowed else 0):
        image = yield from heartbeats(operator.steps(random[:, i]), partial(dataset, "running", count))
        squares.append(float(image.double().square().sum()))
        yield dataset("running", count)
    yield dataset("done", count)


def _leave_one_out(random: Tensor, images: Tensor, basis: Tensor, triangle: Tensor, inner: Tensor) -> np.ndarray:
    """The estimates of XTrace, one for each random vector, which judges what the basis of the others leaves."""
    n, count = random.shape
    inner = (inner + inner.T) / 2
    # column i is orthogonal to the images of all others, in the basis
    others = torch.stack([torch.cat([triangle[:, :i], triangle[:, i + 1 :]], 1) for i in range(count)])
    apart = torch.linalg.svd(others)[0][:, :, -1].T
    along = basis.T @ random
    along = along - apart * (apart * along).sum(0)  # random vectors in the basis without their own image
    left = (random * images).sum(0) - 2 * (along * triangle).sum(0) + (along * (inner @ along)).sum(0)
    size = n - along.square().sum(0)
    scale = (n - count + 1) / size
    kept = torch.trace(inner) - (apart * (inner @ apart)).sum(0)
    return (kept + scale * left).cpu().numpy()


def _mean(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return np.nan, np.nan
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else np.nan
