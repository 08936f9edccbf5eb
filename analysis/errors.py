"""What a person can mend: errors whose text says what was given, what is accepted and what to do."""

from pathlib import PurePath


class LandscapeError(ValueError):
    """Base of every error that this package raises on purpose."""


class CheckpointError(LandscapeError):
    """A checkpoint file cannot be read, or does not fit the model."""


class DataError(LandscapeError):
    """The evaluation data are empty, or not in a form that can be frozen."""


class ProblemError(LandscapeError):
    """The model, the loss or a metric does not do what a landscape needs."""


class ProjectError(LandscapeError):
    """A project file cannot be imported, or does not define what it should.

    details: the user's own traceback, if there is one.
    """

    details: str = ""


class ResultError(LandscapeError):
    """A result file cannot be read, or is not one of ours."""


class SymmetryError(LandscapeError):
    """A permutation that was taken for a symmetry changes the function, or does not fit the weights."""


def misplaced(given: object, needed: str, remedy: str) -> str:
    """The text of an error about an argument of another kind."""
    shown = f"'{given}'" if isinstance(given, (str, PurePath)) else "What was given"
    return f"{shown} is a {type(given).__name__} where {needed} needed: {remedy}."
