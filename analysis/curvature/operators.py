"""Curvature as linear operators: Hessian, generalised Gauss-Newton, empirical Fisher, whole or in part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor
from torch.autograd import grad

from ..attention import twice_differentiable_attention
from ..checkpoints import Checkpoint
from ..data import count, host_memory, tensors_of
from ..directions import matching
from ..errors import LandscapeError
from ..measures import target_of, tensor_of
from ..problem import Problem
from ..randomness import rng_state
from ..replica import Replica
from ..weights import Weights, refuse_unnamed

KINDS = {
    "hessian": "Hessian",
    "ggn": "generalised Gauss-Newton matrix",
    "fisher": "empirical Fisher matrix",
}
GRAPH_SHARE = 1 / 4  # of the memory of the machine, or of what is free on the device, for kept graphs
LARGEST_BLOCK = 2048
PROBED = 64  # samples whose graph is weighed
TRIED = 16  # samples on which a network is tried for its own curvature


class Curvature:
    """A second-order matrix of a problem's mean loss at a checkpoint, known by its products with vectors.

    Vectors are flat [columns] or [rows], the chosen parameters in the order of the model's names. Batches count by
    what they weigh in the mean loss. A product is the derivative of a gradient whose graph is kept, while memory
    allows, and built anew otherwise (Pearlmutter 1994, Fast exact multiplication by the Hessian).

    kind: "hessian"; "ggn", J' (d2 loss / d output2) J, without the network's own curvature (Schraudolph 2002);
        "fisher", the mean of g g' over the samples, with g the gradient of one sample's mean loss.
    layers: names or patterns of the parameters that count; None is all that the model trains.
    columns: those along which is differentiated first, for an off-diagonal block layers x columns.
    samples: indices of the samples that count, in the order of the data; None is all.
    data: one of the problem's further data sets, by name.
    frozen: whether parameters with requires_grad=False count too.

    Under batchnorm "recalibrated" and "frozen" statistics are constants of the product; under "batch" they are
    differentiated through. Piecewise-linear networks (ReLU) have curvature at their kinks that no product sees.

    shape: (rows, columns). products: how many were computed. loss, gradient, gradient_norm: of the mean loss, in
        columns.

    Raises LandscapeError for unknown options, samples that cannot be taken apart, a loss that is not differentiable,
    and a model whose products are not repeatable.
    """

    def __init__(
        self,
        problem: Problem,
        checkpoint: Checkpoint | None = None,
        *,
        kind: str = "hessian",
        layers: Collection[str] | None = None,
        columns: Collection[str] | None = None,
        samples: Sequence[int] | np.ndarray | None = None,
        data: str = "",
        frozen: bool = False,
        _each: float | None = None,
    ):
        if kind not in KINDS:
            raise LandscapeError(f"kind is {kind!r}; accepted are {list(KINDS)}.")
        self.problem, self.kind = problem, kind
        self.checkpoint = problem.checkpoint(checkpoint)
        self._options = {"kind": kind, "layers": layers, "columns": columns, "data": data, "frozen": frozen}
        self._samples = None if samples is None else np.asarray(samples)
        if self._samples is not None and not self._samples.size:
            raise LandscapeError("No sample is chosen; there is nothing to average the loss over.")
        if data not in ("", *problem.also):
            raise LandscapeError(f"data is {data!r}; the problem has {['', *problem.also]}.")
        self._measure = next(m for m in problem.measures if m.data == data)
        self._check_kind()
        self._replica = Replica(problem)
        self._replica.load(self.checkpoint)
        self.rows = self._names(layers, frozen)
        self.columns = self.rows if columns is None else self._names(columns, frozen)
        parameters = self._replica.parameters
        for name in {*self.rows, *self.columns}:
            parameters[name].requires_grad_(True)
        self._rows = [parameters[name] for name in self.rows]
        self._columns = [parameters[name] for name in self.columns]
        self.shape = sum(t.numel() for t in self._rows), sum(t.numel() for t in self._columns)
        self.dtype, self.device = problem.dtype, problem.device
        self.products = 0
        self._trusted = self.rows != self.columns
        self._each = _each  # bytes that the graph of a sample holds on to
        self._blocks, self.keeps_graphs = self._fitting_blocks()
        self._build()

    def __repr__(self) -> str:
        return f"Curvature({KINDS[self.kind]} of {self.problem.name}, {self.shape[0]:,} x {self.shape[1]:,})"

    def matvec(self, vector: Tensor) -> Tensor:
        """The product [rows] with a vector [columns]. The first one is followed by another that checks it.

        Raises LandscapeError for a vector of another length, and if the matrix is not the same at the second product.
        """
        result = run(self.steps(vector))
        if not self._trusted:
            self._trusted = True
            self._check(vector, result)
        return result

    def __matmul__(self, vectors: Tensor) -> Tensor:
        return self.matvec(vectors) if vectors.ndim == 1 else self.matmat(vectors)

    def matmat(self, vectors: Tensor) -> Tensor:
        """The products [rows, k] with the columns of vectors [columns, k]."""
        return torch.stack([self.matvec(vector) for vector in vectors.T], 1)

    def steps(self, vector: Tensor) -> Generator[None, None, Tensor]:
        """`matvec` as a generator that pauses after each block of the data and returns the product, unchecked."""
        if vector.shape != (self.shape[1],):
            raise LandscapeError(f"The vector has shape {list(vector.shape)}; expected [{self.shape[1]}].")
        vector = vector.to(self.device, self.dtype)
        sizes = [t.numel() for t in self._columns]
        parts = [p.view(t.shape) for p, t in zip(vector.split(sizes), self._columns, strict=True)]
        total = torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
        for i, block in enumerate(self._blocks):
            with self._replica.seeded(self._drawn[i]), self._differentiating():
                graph = self._graphs[i] if self.keeps_graphs else self._graph(block)
                total += flat(graph.product(parts, self.keeps_graphs), self._rows)
            yield
        self.products += 1
        return total / self._weight

    def transposed(self) -> Curvature:
        """The block columns x rows."""
        return self._other(layers=self.columns, columns=self.rows)

    def in_float64(self) -> Curvature:
        """The same matrix in float64 arithmetic. Raises what the model or loss raises if they cannot."""
        each = self._each and self._each * 8 / self.dtype.itemsize
        return self._other(problem=self.problem.with_dtype(torch.float64), _each=each)

    def on_fewer(self, count: int) -> Curvature:
        """The same matrix over at most so many of its samples, evenly spaced, where they can be taken apart."""
        if self.samples <= count or not self.problem.free_blocks:
            return self
        own = np.arange(self.samples) if self._samples is None else self._samples
        return self._other(samples=own[np.linspace(0, self.samples - 1, count).astype(int)], _each=self._each)

    def of_same_trace(self) -> Curvature:
        """The Gauss-Newton matrix where this is a Hessian that it shares the diagonal with, else this matrix itself.

        The Hessian has besides it the second derivatives of each output, weighted by that of the loss. Those by one
        parameter alone vanish where the network is piecewise linear in each parameter tensor, as with ReLU, constant
        statistics and no tensor that is used twice along the way: tried on a few samples. Being positive, the
        Gauss-Newton matrix gives its trace away to far fewer products than an indefinite one does.
        """
        whole_batches = self.problem.streams or not self.problem.free_blocks
        if self.kind != "hessian" or self.rows != self.columns or whole_batches or self._measure.takes_model:
            return self
        try:
            other = self._other(kind="ggn")
        except LandscapeError:  # a loss that is not of the first output alone
            return self
        return self if self.on_fewer(TRIED)._bends() else other

    def _bends(self) -> bool:
        """Whether outputs have a second derivative along one parameter tensor, by random vectors."""
        generator, columns = torch.Generator().manual_seed(0), self._columns

        def random(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

        with self._replica.seeded(self._drawn[0]), self._differentiating():
            output = tensor_of(self._replica.output(self._blocks[0]))
            firsts = grad((output * random(output)).sum(), columns, create_graph=True, materialize_grads=True)
            for first, column in zip(firsts, columns, strict=True):
                along = random(column)
                (second,) = _along([first], [column], [along], True)
                size = column.detach().norm().clamp(min=along.norm())  # one that is zero has a scale too
                scale = first.detach().norm() * along.norm() / size
                if second.norm() > 1e3 * self.problem.eps * scale:
                    return True
        return False

    def to_weights(self, vector: Tensor) -> Weights:
        """A vector [columns] as weights of the whole model, zero elsewhere."""
        sizes = [t.numel() for t in self._columns]
        named = zip(self.columns, vector.split(sizes), strict=True)
        parts = {name: part.view(self._replica.parameters[name].shape) for name, part in named}
        zeros = self.checkpoint.weights.zeros()
        return zeros.map(lambda name, tensor: parts[name].to(tensor) if name in parts else tensor)

    def from_weights(self, weights: Weights) -> Tensor:
        """The entries of weights that count, as a vector [columns]."""
        refuse_unnamed(weights)
        return torch.cat([weights[name].flatten() for name in self.columns]).to(self.device, self.dtype)

    def to_scipy(self) -> LinearOperator:
        """For `scipy.sparse.linalg`: numpy vectors in, numpy vectors out, in the operator's dtype."""
        transposed = self if self.rows == self.columns else None

        def apply(operator: Curvature, vector: np.ndarray) -> np.ndarray:
            given = torch.from_numpy(np.ascontiguousarray(vector).reshape(-1))
            return operator.matvec(given).cpu().numpy()

        def back(vector: np.ndarray) -> np.ndarray:
            nonlocal transposed
            transposed = transposed or self.transposed()
            return apply(transposed, vector)

        dtype = np.float64 if self.dtype == torch.float64 else np.float32
        return LinearOperator(self.shape, matvec=lambda v: apply(self, v), rmatvec=back, dtype=dtype)

    def layer_slices(self) -> dict[str, slice]:
        """Where each parameter lies in a vector [columns]."""
        ends = np.cumsum([t.numel() for t in self._columns]).tolist()
        return {n: slice(end - t.numel(), end) for n, t, end in zip(self.columns, self._columns, ends, strict=True)}

    def provenance(self) -> dict[str, Any]:
        """What determines the matrix, as JSON-ready facts."""
        everything = {**self.problem.provenance(), "matrix": KINDS[self.kind], "parameters_counted": self.shape[1]}
        everything["checkpoint"] = {
            "name": self.checkpoint.name,
            "sha256": self.checkpoint.digest,
            **self.checkpoint.info,
        }
        everything["of"] = {key: value for key, value in self._options.items() if value not in (None, "", False)}
        everything["samples_counted"], everything["samples_sha256"] = self.samples, self._digest
        return everything

    def _other(self, **changes: Any) -> Curvature:
        options: dict[str, Any] = {"problem": self.problem, **self._options, "samples": self._samples, **changes}
        return Curvature(checkpoint=self.checkpoint, **options)

    def _check_kind(self) -> None:
        measure = self._measure
        if self.kind == "ggn" and (measure.takes_model or measure.long_name == "the model's own loss"):
            raise LandscapeError(
                "A Gauss-Newton matrix needs a loss of (output, target): here the model is in the loss."
            )
        if self.kind == "fisher" and not measure.per_sample:
            raise LandscapeError(
                "An empirical Fisher matrix needs one value a sample: a built-in loss, or reduction='none'."
            )
        if self._samples is not None and not self.problem.free_blocks:
            raise LandscapeError("Samples cannot be chosen: the loss or the model depends on whole batches.")

    def _names(self, layers: Collection[str] | None, frozen: bool) -> list[str]:
        weights = self.checkpoint.weights
        chosen, entries = matching(weights, layers), weights.structure.entries
        names = [name for name in weights if name in chosen and (frozen or not entries[name].frozen)]
        if not names:
            raise LandscapeError("All of the chosen parameters are frozen; pass frozen=True, or other layers.")
        return names

    def _fitting_blocks(self) -> tuple[list[Any], bool]:
        """The data in blocks whose graphs fit the memory, and whether all of them do together."""
        data = self.problem.also.get(self._measure.data, self.problem.data)
        if self._samples is not None:
            try:
                chosen = np.arange(data.n)[self._samples]
            except IndexError as error:
                raise LandscapeError(f"samples are indices from 0 to {data.n - 1}; {error}.") from error
            data = data.chosen(torch.from_numpy(chosen))
        self.samples, self._digest = data.n, data.digest
        room = GRAPH_SHARE * memory(self.device)
        if not self.problem.free_blocks:
            blocks = data.batches()
            return blocks, self._graph_bytes(blocks[0]) * len(blocks) <= room
        if self._each is None:
            few = data.blocks(min(data.n, max(data.sizes), PROBED))[0]
            self._each = self._graph_bytes(few) / count(few)
        keep = self._each * data.n <= room
        size = LARGEST_BLOCK if keep else int(np.clip(room / 2 / self._each, 1, LARGEST_BLOCK))
        return data.blocks(min(size, data.n)), keep

    def _graph_bytes(self, batch: Any) -> int:
        """Memory that the graph of a batch holds on to."""
        own = {t.untyped_storage().data_ptr() for t in (self._replica.flat, *tensors_of(batch))}
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                held[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # itself, an output would hold the graph that holds it, for ever

        with (
            self._replica.seeded(),
            self._differentiating(),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        ):
            self._replica.settle()
            graph = self._graph(batch)
        del graph
        return sum(held.values())

    def _build(self) -> None:
        self._graphs: list[_Graph] = []
        self._drawn: list[tuple | None] = []  # where random draws of each block begin
        loss = self._weight = torch.zeros((), dtype=torch.float64, device=self.device)
        gradient = torch.zeros(self.shape[1], dtype=self.dtype, device=self.device)
        with self._replica.seeded(), self._differentiating():
            self._replica.settle()
            for block in self._blocks:
                self._drawn.append(rng_state() if self.problem.seed is not None else None)
                graph = self._graph(block)
                gradient += flat(graph.gradient(), self._columns)
                loss, self._weight = loss + graph.loss, self._weight + graph.weight
                if self.keeps_graphs:
                    self._graphs.append(graph)
        self.loss, self.gradient = loss / self._weight, gradient / self._weight
        self.gradient_norm = float(self.gradient.double().norm())

    def _graph(self, batch: Any) -> _Graph:
        replica, measure = self._replica, self._measure
        batch = replica.here(batch)
        if self.kind == "ggn":
            whole = replica.output(batch)
            output = tensor_of(whole)
            leaf = output.detach().requires_grad_()
            values, weights = measure.function(leaf, replica.guarded(batch))
            if not isinstance(whole, Tensor) and not torch.equal(
                values, measure.function(whole, replica.guarded(batch))[0]
            ):
                raise LandscapeError(
                    "A Gauss-Newton matrix needs a loss of the first tensor that the model returns: this one looks at "
                    "others too."
                )
            return _Composed(self._columns, self._rows, output, leaf, values, weights)
        subject = replica.model if measure.takes_model else replica.output(batch)
        values, weights = measure.function(subject, replica.guarded(batch))
        if not values.requires_grad:
            raise LandscapeError("The loss does not depend on the chosen parameters through anything differentiable.")
        if self.kind == "fisher":
            return _Composed(self._columns, self._rows, values, None, values, weights)
        return _Twice(self._columns, self._rows, values, weights)

    @contextmanager
    def _differentiating(self) -> Iterator[None]:
        with self._replica.own_context(grad=False), torch.enable_grad(), twice_differentiable_attention():
            yield

    def _check(self, vector: Tensor, product: Tensor) -> None:
        size = float(product.double().norm())
        if size == 0:
            return
        back = run(self.steps(product / size))
        forth = float(vector.double().to(back.device) @ back.double())
        if abs(forth - size) > 1e4 * self.problem.eps * max(size, float(vector.norm() * back.norm())):
            raise LandscapeError(
                f"Two products disagree: u'(Hv) = {size:.6g}, v'(Hu) = {forth:.6g}. The matrix is not symmetric, or "
                "not the same at each product: the model keeps something between calls, or the dtype is too "
                "coarse for it. Try dtype=torch.float64."
            )


class _Graph(ABC):
    """What is kept of one block: its loss, weight and gradient, and products with its matrix."""

    def __init__(self, columns: Sequence[Tensor], rows: Sequence[Tensor], values: Tensor, weights: Tensor):
        self._columns, self._rows = columns, rows
        self.loss, self.weight = values.detach().double().sum(), weights.double().sum()

    @abstractmethod
    def gradient(self) -> tuple[Tensor, ...]: ...

    @abstractmethod
    def product(self, parts: Sequence[Tensor], keep: bool) -> tuple[Tensor, ...]: ...


class _Twice(_Graph):
    """A Hessian: the gradient's graph, differentiated once more."""

    def __init__(self, columns: Sequence[Tensor], rows: Sequence[Tensor], values: Tensor, weights: Tensor):
        super().__init__(columns, rows, values, weights)
        self._gradient = grad(values.sum(), columns, create_graph=True, materialize_grads=True)

    def gradient(self) -> tuple[Tensor, ...]:
        return tuple(g.detach() for g in self._gradient)

    def product(self, parts: Sequence[Tensor], keep: bool) -> tuple[Tensor, ...]:
        return _along(self._gradient, self._rows, parts, keep)


class _Composed(_Graph):
    """J' M J, with J the Jacobian of an output and M the second derivative of the loss there.

    Without a leaf the output is the samples' values, and M divides each by its weight.
    Jv is the derivative of J'u by u, which is linear in u.
    """

    def __init__(
        self,
        columns: Sequence[Tensor],
        rows: Sequence[Tensor],
        output: Tensor,
        leaf: Tensor | None,
        values: Tensor,
        weights: Tensor,
    ):
        super().__init__(columns, rows, values, weights)
        self._output, self._leaf, self._weights = output, leaf, weights
        self._any = torch.zeros_like(output, requires_grad=True)
        self._pulled = grad(output, columns, self._any, create_graph=True, materialize_grads=True)
        self._inner = None if leaf is None else grad(values.sum(), leaf, create_graph=True)

    def gradient(self) -> tuple[Tensor, ...]:
        by_output = torch.ones_like(self._output) if self._inner is None else self._inner[0].detach()
        return grad(self._output, self._columns, by_output, retain_graph=True, materialize_grads=True)

    def product(self, parts: Sequence[Tensor], keep: bool) -> tuple[Tensor, ...]:
        (pushed,) = _along(self._pulled, [self._any], parts, True)
        if self._inner is not None and self._leaf is not None:
            (pushed,) = _along(self._inner, [self._leaf], [pushed], keep)
        else:
            pushed = torch.where(self._weights == 0, 0.0, pushed / self._weights)
        return grad(self._output, self._rows, pushed, retain_graph=keep, materialize_grads=True)


def _along(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], parts: Sequence[Tensor], keep: bool
) -> tuple[Tensor, ...]:
    """Gradient of sum(outputs * parts) by the inputs, zero where nothing depends on them."""
    pairs = [(output, part) for output, part in zip(outputs, parts, strict=True) if output.requires_grad]
    if not pairs:
        return tuple(torch.zeros_like(x) for x in inputs)
    of, along = zip(*pairs, strict=True)
    return grad(of, inputs, along, retain_graph=keep, materialize_grads=True)


def flat(parts: Sequence[Tensor], like: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part, _ in zip(parts, like, strict=True)])


def run(steps: Generator[None, None, Tensor]) -> Tensor:
    """Exhaust a generator; what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def samples_by_class(problem: Problem) -> dict[int, np.ndarray]:
    """Indices of the evaluation samples of each class. Raises LandscapeError where targets are not classes."""
    targets = [target_of(batch) for batch in problem.data.batches()]
    if any(not isinstance(t, Tensor) or t.is_floating_point() or t.ndim != 1 for t in targets):
        raise LandscapeError("Samples have no class: the targets are not integers [samples].")
    labels = torch.cat(targets).cpu().numpy()
    return {int(c): np.flatnonzero(labels == c) for c in np.unique(labels)}


def memory(device: torch.device) -> float:
    """Bytes of the machine, or free on the device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_memory()
