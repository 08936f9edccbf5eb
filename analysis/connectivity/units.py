"""Which unit of one network does what which unit of another does: the correlations that activation matching uses.

Li et al. 2016, Convergent Learning: Do different neural networks learn the same representations?, arXiv:1511.07543.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from scipy.optimize import linear_sum_assignment
from torch import nn

from ..checkpoints import Checkpoint
from ..errors import LandscapeError
from ..problem import Problem
from ..results import provenance_json
from ..strategy import Strategy
from ..subspace import Line
from .activations import correlations
from .damage import refuse_damaged


def unit_correlations(problem: Problem, first: Checkpoint, second: Checkpoint, layer: str) -> xr.Dataset:
    """The correlations of the units of one layer of two checkpoints over the problem's data, and who matches whom.

    layer: the name of a linear or convolutional module; units are its outputs, over places of an image or sequence.

    Returns a Dataset with the dims ``unit`` (of the first) and ``other`` (of the second): ``correlation`` [unit,
    other], 0 for units that are constant; ``bipartite`` [unit], the unit of the second in the one-to-one matching with
    the largest sum of correlations, and ``semi`` [unit], the one that correlates most; ``bipartite_correlation`` and
    ``semi_correlation`` [unit], never above it; ``aligned`` [unit, place], the correlations with the columns in the
    order of the bipartite matching: the picture after matching.

    Raises LandscapeError for equal checkpoints and for a layer that there is not.
    """
    refuse_damaged(first, second)
    line = Line.through(first, second)
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    known = [name for name, module in problem.model.named_modules() if isinstance(module, kinds)]
    if layer not in known:
        raise LandscapeError(f"There is no linear or convolutional module {layer!r}; there are {known}.")
    matrix = correlations(problem, first, second, {layer: {False: (layer, 0, False)}})[layer, 0, False]
    bipartite, semi = linear_sum_assignment(matrix, maximize=True)[1], matrix.argmax(1)
    every = np.arange(len(matrix))
    about = {"long_name": "correlation", "units": ""}
    return xr.Dataset(
        {
            "correlation": (("unit", "other"), matrix, about),
            "aligned": (("unit", "place"), matrix[:, bipartite], about),
            "bipartite": ("unit", bipartite, {"long_name": "unit of the second, one to one"}),
            "semi": ("unit", semi, {"long_name": "unit of the second that correlates most"}),
            "bipartite_correlation": ("unit", matrix[every, bipartite], about),
            "semi_correlation": ("unit", matrix[every, semi], about),
        },
        attrs={
            "title": f"units of {layer} of {first.name} and {second.name}",
            "status": "done",
            "progress": 1.0,
            "layer": layer,
            "provenance": provenance_json(problem, line, Strategy(None, torch.get_num_threads()).record(), layer=layer),
        },
    )
