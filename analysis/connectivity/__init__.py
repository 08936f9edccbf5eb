"""Connectivity: permutation symmetries of any module, matching of checkpoints, and the barrier between them."""

from .alignment import singular_alignment
from .barrier import barrier, barrier_height
from .chord import example_barriers, path_curvature
from .curves import Curve, CurveSearch
from .groups import Group, Permutation
from .layers import layer_barriers, layers_of, with_layers
from .matching import Matching, match_activations, match_weights
from .matrix import barrier_matrix
from .merging import Merger, average, match_many, merge, recalibrated, repaired
from .straight_through import StraightThrough
from .symmetries import Certificate, Symmetries, find_symmetries
from .widths import widened

__all__ = [
    "Certificate",
    "Curve",
    "CurveSearch",
    "Group",
    "Matching",
    "Merger",
    "Permutation",
    "StraightThrough",
    "Symmetries",
    "average",
    "barrier",
    "barrier_height",
    "barrier_matrix",
    "example_barriers",
    "find_symmetries",
    "layer_barriers",
    "layers_of",
    "match_activations",
    "match_many",
    "match_weights",
    "merge",
    "path_curvature",
    "recalibrated",
    "repaired",
    "singular_alignment",
    "widened",
    "with_layers",
]
