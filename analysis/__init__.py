"""Loss landscapes, curvature and mode connectivity of any PyTorch model: weights and data in, xarray Datasets out."""

from .checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from .curvature import Curvature, Eigenpairs, along_training, sharpness
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
from .seeds import of_seed, over_seeds
from .softmax import radius_band, softmax_radius, with_radius
from .subspace import Line, Plane
from .surface import surface
from .weights import Weights

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Curvature",
    "DataError",
    "Eigenpairs",
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
    "along_training",
    "evaluate",
    "load",
    "load_checkpoint",
    "load_project",
    "of_seed",
    "over_seeds",
    "provenance",
    "radius_band",
    "read_checkpoint",
    "save",
    "save_checkpoint",
    "sharpness",
    "softmax_radius",
    "surface",
    "with_radius",
]
