"""Loss landscapes and mode connectivity of any PyTorch model: weights and data in, xarray Datasets out."""

from .checkpoints import Checkpoint, load_checkpoint
from .errors import (
    CheckpointError,
    DataError,
    LandscapeError,
    ProblemError,
    ProjectError,
    ResultError,
)
from .evaluate import Strategy, evaluate
from .problem import Problem
from .project import Project, load_project
from .reading import read_checkpoint
from .results import load, provenance, save
from .subspace import Line, Plane
from .surface import surface
from .weights import Weights

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "DataError",
    "LandscapeError",
    "Line",
    "Plane",
    "Problem",
    "ProblemError",
    "Project",
    "ProjectError",
    "ResultError",
    "Strategy",
    "Weights",
    "evaluate",
    "load",
    "load_checkpoint",
    "load_project",
    "provenance",
    "read_checkpoint",
    "save",
    "surface",
]
