"""Curvature: matrices of second derivatives, their eigenvalues, density and trace, and sharpness.

`Curvature` is a matrix known by its products. What computes with it is a generator of xarray Datasets, each a better or
more complete version of the last; close it to cancel. All have the attributes

    title, status ("running"; then "done", or "converged" or "unconverged"), progress (0 to 1), elapsed_s,
    provenance (JSON, see `analysis.provenance`), and products or evaluations: what was spent

and these variables, NaN where not computed. Eigenvalues are in units of the loss per squared weight.

==================  ================================================================================================
`Eigenpairs.steps`  ``eigenvalue`` [pair], the largest from the top, then the smallest from the bottom (coordinate
                    ``end``); ``residual``; ``bound``: |eigenvalue - a true one| <= bound, rounding counted in;
                    ``gap_bound``, sharper where the gap to the next is known; ``converged``. Attributes ``verified``
                    (that none was missed, but for a chance of 1/1000) and ``noise`` (of rounding).
`density`           ``deflated`` [ritz], ``node`` and ``weight`` [probe, step]: nodes of a quadrature; `quadrature`
                    joins them, `smoothed` draws, `effective_dimension` and `fraction_negative` read them.
`trace`             ``trace``, ``frobenius``, ``layer_trace`` [layer], each with its standard error ``..._se``.
`sharpness`         ``zeroth_order`` and ``first_order`` [geometry, radius], lower bounds of maxima; ``average``
                    [geometry, sigma] and ``average_se``; ``top_eigenvalue`` [geometry].
`along_training`    ``eigenvalue`` and ``bound`` [checkpoint, pair], ``trace``, ``gradient_norm``, ``alignment``,
                    ``overlap``, ``edge``, ``stability`` [checkpoint], with the coordinate ``step``;
                    `with_learning_rate` gives the last two for another rate.
==================  ================================================================================================
"""

from .along import along_training, with_learning_rate
from .density import density, effective_dimension, quadrature, smoothed, trace
from .eigenpairs import Eigenpairs
from .operators import Curvature, samples_by_class
from .sharpness import sharpness
from .trust import Signs, fraction_negative, parabola

__all__ = [
    "Curvature",
    "Eigenpairs",
    "Signs",
    "along_training",
    "density",
    "effective_dimension",
    "fraction_negative",
    "parabola",
    "quadrature",
    "samples_by_class",
    "sharpness",
    "smoothed",
    "trace",
    "with_learning_rate",
]
