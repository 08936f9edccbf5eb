"""Contour lines of a plane at the ticks of its scale, and where their labels stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import xarray as xr
from contourpy import contour_generator

from landscape_app import picture
from landscape_app.colours import INK
from landscape_app.scales import Scale


def contours(ds: xr.Dataset, metric: picture.Metric, scale: Scale) -> Iterator[tuple[float, float, list[np.ndarray]]]:
    """The lines at each tick of the scale: (tick, its position, lines of points (a, b))."""
    heights = np.ma.masked_invalid(replace(scale, clipped=False).position(metric.values))  # no plateau at the last tick
    generator = contour_generator(ds["a"].values, ds["b"].values, heights)
    for tick, level in zip(scale.ticks, scale.positions, strict=True):
        yield tick, level, [line for line in generator.lines(level) if len(line) > 1]


def contour_ink(scale: Scale, level: float) -> str:
    """Light on the dark colours, dark on the light ones."""
    if scale.centred:
        return INK if abs(level) < 0.6 * scale.high else "#ffffff"
    return "#ffffff" if level - scale.low < 0.6 * (scale.high - scale.low) else INK


def label_place(
    lines: list[np.ndarray], x_range: tuple[float, float], y_range: tuple[float, float]
) -> tuple[float, float, float] | None:
    """Where the label of a contour goes, on its longest line: (x, y, angle), or None if all are short.

    The point chosen is the one nearest to the diagonal from the lower left to the upper right, clear of the edge.
    """
    size = np.array([x_range[1] - x_range[0], y_range[1] - y_range[0]])
    corner = np.array([x_range[0], y_range[0]])
    unit = [(line - corner) / size for line in lines]
    lengths = [float(np.hypot(*np.diff(u, axis=0).T).sum()) for u in unit]
    if not lengths or max(lengths) < 0.35:
        return None
    line = unit[int(np.argmax(lengths))]
    inside = ((line > 0.06) & (line < 0.94)).all(1)
    if not inside.any():
        return None
    away = np.where(inside, np.abs(line[:, 0] - line[:, 1]) - 0.2 * line.sum(1), np.inf)
    i = int(np.argmin(away))
    before, after = line[max(0, i - 3)], line[min(len(line) - 1, i + 3)]
    dx, dy = (after - before) * size
    angle = float(np.arctan2(dy, dx))
    if abs(angle) > np.pi / 2:
        angle -= np.sign(angle) * np.pi
    x, y = line[i] * size + corner
    return float(x), float(y), angle
