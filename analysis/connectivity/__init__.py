"""Connectivity: permutation symmetries of any module, matching of checkpoints, and the barrier between them."""

from .alignment import singular_alignment
from .barrier import barrier, barrier_height
from .chord import example_barriers, path_curvature
from .curves import Curve, CurveSearch
from .dropout import dropout_curve, dropout_path
from .groups import Group, Permutation
from .initialisation import initialisation_line
from .layers import layer_barriers, layers_of, with_layers
from .matching import Matching, match_activations, match_weights
from .matrix import barrier_matrix
from .merging import Merger, average, match_many, merge, recalibrated, repairable, repaired
from .repairing import repaired_barrier
from .similarity import linear_cka
from .star import StarSearch
from .straight_through import StraightThrough
from .symmetries import Certificate, Symmetries, find_symmetries
from .units import unit_correlations
from .widths import widened

__all__ = [
    "Certificate",
    "Curve",
    "CurveSearch",
    "Group",
    "Matching",
    "Merger",
    "Permutation",
    "StarSearch",
    "StraightThrough",
    "Symmetries",
    "average",
    "barrier",
    "barrier_height",
    "barrier_matrix",
    "dropout_curve",
    "dropout_path",
    "example_barriers",
    "find_symmetries",
    "initialisation_line",
    "layer_barriers",
    "layers_of",
    "linear_cka",
    "match_activations",
    "match_many",
    "match_weights",
    "merge",
    "path_curvature",
    "recalibrated",
    "repairable",
    "repaired",
    "repaired_barrier",
    "singular_alignment",
    "unit_correlations",
    "widened",
    "with_layers",
]
