"""Do the bars hold? Every reported eigenvalue against the dense float64 truth, in many seeded runs.

One JSON line a matrix: runs, pairs, how many bars do not contain the eigenvalue of their rank, the worst ratio of
error to bar, products. Networks 64-16-10 with tanh, GELU and ReLU at the start, in the middle and late in training on
the digits, in float32 and float64, and diagonal matrices with multiple and clustered eigenvalues.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor, nn

from analysis import Problem
from analysis.curvature.eigenpairs import Eigenpairs
from analysis.curvature.operators import Curvature
from benchmarks.networks import digits, stages

ACTIVATIONS = (nn.Tanh, nn.GELU, nn.ReLU)
ENDS = 5
SPECTRA = {
    "three times 10": [10.0, 10, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, *np.linspace(0.5, -0.5, 100), -1, -1, -2],
    "a cluster": [0.6405, 0.64016, 0.64014, 0.64013, 0.6401, 0.55, 0.5, *np.linspace(0.4, -0.3, 200), -0.64, -0.6405],
    "all equal": [2.0] * 40,
    "ten fives": [5.0] * 10 + list(np.linspace(1, 0, 60)),
}


class Quadratic(nn.Module):
    """A loss whose Hessian is a given diagonal matrix."""

    def __init__(self, spectrum: Tensor):
        super().__init__()
        self.w = nn.Parameter(torch.ones(len(spectrum)))
        self.register_buffer("spectrum", spectrum)

    def forward(self, x: Tensor) -> Tensor:
        return (self.spectrum * self.w**2).sum().expand(len(x), 1)


def quadratic(spectrum: list[float], dtype: torch.dtype) -> Problem:
    """A problem with a known Hessian, rotated by nothing: Lanczos does not see the basis."""
    x = torch.zeros(2, 1)
    model = Quadratic(torch.tensor(spectrum, dtype=torch.float64))
    return Problem(model, lambda output, _: output.mean() / 2, (x, x), metrics=[], dtype=dtype)


def run(quick: bool) -> None:
    seeds = range(2 if quick else 9)
    totals = np.zeros(3)
    for name, spectrum in SPECTRA.items():
        truth = np.sort(spectrum)
        for dtype in (torch.float64, torch.float32):
            totals += check(name, quadratic(spectrum, dtype), truth, seeds)
    x, y = digits()
    nets = ((f"64-16-10 {a.__name__}, {stage}", net) for a in ACTIVATIONS for stage, net in stages([64, 16, 10], a))
    for name, net in nets:
        double = Problem(net, "cross_entropy", (x, y), metrics=[], dtype=torch.float64)
        operator = Curvature(double)
        matrix = operator.matmat(torch.eye(operator.shape[1], dtype=torch.float64))
        truth = torch.linalg.eigvalsh((matrix + matrix.T) / 2).numpy()
        for dtype in (torch.float64, torch.float32):
            totals += check(name, double.with_dtype(dtype), truth, seeds)
        if quick and name.endswith("early"):
            break
    print(json.dumps({"name": "bars, all", "runs": int(totals[0]), "pairs": int(totals[1]), "outside": int(totals[2])}))


def check(name: str, problem: Problem, truth: np.ndarray, seeds: range) -> np.ndarray:
    operator, ratios, products, states = Curvature(problem), [], [], []
    for seed in seeds:
        solver = Eigenpairs(operator, largest=ENDS, smallest=ENDS, seed=seed)
        *_, ds = solver.steps()
        true = np.concatenate([truth[::-1][:ENDS], truth[:ENDS]])
        ratios.append(np.abs(ds.eigenvalue.values - true) / ds.bound.values)
        products.append(ds.attrs["products"])
        states.append(ds.attrs["status"])
    ratio = np.array(ratios)
    row = {
        "name": f"bars: {name}",
        "dtype": str(problem.dtype).removeprefix("torch."),
        "runs": len(ratio),
        "pairs": ratio.size,
        "outside": int((ratio > 1).sum()),
        "worst_error_over_bar": round(float(ratio.max()), 3),
        "products": int(np.median(products)),
        "unconverged": sum(state != "converged" for state in states),
    }
    print(json.dumps(row), flush=True)
    return np.array([len(ratio), ratio.size, row["outside"]])
