"""Connectivity: permutation symmetries of any module, matching of checkpoints, and the barrier between them."""

from .barrier import barrier, barrier_height
from .groups import Group, Permutation
from .matching import Matching, match_activations, match_weights
from .symmetries import Certificate, Symmetries, find_symmetries

__all__ = [
    "Certificate",
    "Group",
    "Matching",
    "Permutation",
    "Symmetries",
    "barrier",
    "barrier_height",
    "find_symmetries",
    "match_activations",
    "match_weights",
]
