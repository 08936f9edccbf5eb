"""Connectivity: permutation symmetries of any module, matching of checkpoints, and the barrier between them."""

from .barrier import barrier, barrier_height
from .groups import Group, Permutation
from .matching import Matching, match_activations, match_weights
from .merging import Merger, average, match_many, merge, recalibrated, repaired
from .symmetries import Certificate, Symmetries, find_symmetries

__all__ = [
    "Certificate",
    "Group",
    "Matching",
    "Merger",
    "Permutation",
    "Symmetries",
    "average",
    "barrier",
    "barrier_height",
    "find_symmetries",
    "match_activations",
    "match_many",
    "match_weights",
    "merge",
    "recalibrated",
    "repaired",
]
