"""Where words stand in a figure: clear of curves, of points and of each other. The layout has to be known by then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from landscape_app.colours import INK
from landscape_app.figures.style import SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLEAR = 2.5  # points: between a word and a curve
NEAR = 9.0  # points: a word that is farther from what it is about has a line to it

# Where a name may stand beside its point: offset in points, alignment.
PLACES = [
    place
    for far in (6, 9, 13)
    for place in (
        *((far * x, 0, "left" if x > 0 else "right", "center") for x in (1, -1)),
        *((0, far * y, "center", "bottom" if y > 0 else "top") for y in (1, -1)),
        *(
            (far * x, far * y, "left" if x > 0 else "right", "bottom" if y > 0 else "top")
            for y in (1, -1)
            for x in (1, -1)
        ),
    )
]


def traced(axes: Axes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A curve as pixels [n, 2], one apart; values that are not finite are left out."""
    corners = np.stack([np.asarray(x, float), np.asarray(y, float)], -1)
    corners = axes.transData.transform(corners[np.isfinite(corners).all(-1)])
    along = np.concatenate([[0.0], np.hypot(*np.diff(corners, axis=0).T).cumsum()])[: len(corners)]
    if not len(along):
        return corners
    at = np.append(np.arange(0.0, along[-1]), along[-1])
    return np.stack([np.interp(at, along, corners[:, i]) for i in (0, 1)], -1)


class Room:
    """The inside of a chart, and which of its pixels are taken."""

    def __init__(self, axes: Axes, curves: list[np.ndarray]):
        """curves: as of `traced`."""
        self.axes = axes
        self.frame = axes.get_window_extent()
        self.point = axes.figure.dpi / 72
        self.taken = np.zeros((int(self.frame.height), int(self.frame.width)), dtype=bool)
        for pixels in curves:
            column, row = np.floor(pixels - [self.frame.x0, self.frame.y0]).astype(int).T
            inside = (column >= 0) & (column < self.taken.shape[1]) & (row >= 0) & (row < self.taken.shape[0])
            self.taken[row[inside], column[inside]] = True

    def write(self, words: str, x: float, low: float, high: float, colour: str) -> None:
        """Write beside a bar from (x, low) to (x, high), where nothing is; from afar with a thin line to the bar."""
        text = self.axes.text(0, 0, words, transform=self.axes.transAxes, fontsize=SMALL, color=colour, zorder=6)
        text.set_in_layout(False)
        box = text.get_window_extent()
        (bx, low), (_, high) = self.axes.transData.transform([(x, low), (x, high)]) - [self.frame.x0, self.frame.y0]
        low, high = min(low, high), max(low, high)
        pad = CLEAR * self.point
        wide, tall = (int(np.ceil(size + 2 * pad)) for size in (box.width, box.height))
        hidden = _sums(self.taken, tall, wide)
        if not hidden.size:
            text.remove()
            return
        row, column = np.ogrid[: hidden.shape[0], : hidden.shape[1]]
        across = np.maximum(0, np.maximum(column - bx, bx - column - wide))
        along = np.maximum(0, np.maximum(row - high, low - row - tall))
        off = np.abs(row + tall / 2 - (low + high) / 2)
        left, bottom = np.unravel_index((1e4 * hidden + np.hypot(across, along) + 0.05 * off).argmin(), hidden.shape)[
            ::-1
        ]
        self.taken[bottom : bottom + tall, left : left + wide] = True
        size = self.frame.width, self.frame.height
        text.set_position(((left + pad + box.width / 2) / size[0], (bottom + pad + box.height / 2) / size[1]))
        text.set(ha="center", va="center")
        if np.hypot(across, along)[bottom, left] + pad > NEAR * self.point:
            spot = np.clip(bottom + tall / 2, low, high)
            near = np.clip(bx, left + pad, left + wide - pad), np.clip(spot, bottom + pad, bottom + tall - pad)
            ends = np.array([near, (bx, spot)]) / size
            self.axes.plot(*ends.T, color=colour, linewidth=0.5, transform=self.axes.transAxes, gid="leader", zorder=5)


def _sums(taken: np.ndarray, tall: int, wide: int) -> np.ndarray:
    """How much of each box of that size is taken, by its lower left corner."""
    total = np.pad(taken.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    above, below = total[tall:], total[: len(total) - tall]
    return above[:, wide:] - above[:, :-wide] - below[:, wide:] + below[:, :-wide]


def name_points(
    axes: Axes, points: np.ndarray, names: list[str], curves: list[np.ndarray], picture: bool = False
) -> None:
    """Names beside points [point, (x, y)], '' for none: within the axes, and clear of each other, points and curves.

    curves: as of `traced`. picture: whether there are colours beneath, on which names need a light ground.
    """
    from matplotlib.transforms import Bbox

    pixels = axes.transData.transform(points)
    around = axes.figure.dpi / 72
    taken = [Bbox.from_bounds(x - 4 * around, y - 4 * around, 8 * around, 8 * around) for x, y in pixels]
    written = [text.get_window_extent() for text in axes.texts]
    lines = np.concatenate([*curves, np.empty((0, 2))])
    room = axes.get_window_extent().padded(-1.5 * around)
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "boxstyle": "round,pad=0.12"}
    for i in np.argsort(-points[:, 1], kind="stable"):
        if not names[i] or not room.contains(*pixels[i]):
            continue
        text = axes.annotate(
            names[i], points[i], xytext=(0, 0), textcoords="offset points", fontsize=SMALL, zorder=9, color=INK,
            bbox=ground if picture else None,
        )  # fmt: skip
        text.set_in_layout(False)
        tried = []
        for dx, dy, across, along in PLACES:
            text.set(position=(dx, dy), ha=across, va=along)
            box = text.get_window_extent().padded(1.2 * around)
            hidden = sum(_shared(box, other) for j, other in enumerate(taken + written) if j != i)
            crossed = ((lines > [box.x0, box.y0]) & (lines < [box.x1, box.y1])).all(-1).sum() * around
            out = 100 * (box.width * box.height - _shared(box, room))
            tried.append((hidden + crossed + out, len(tried)))
        dx, dy, across, along = PLACES[min(tried)[1]]
        text.set(position=(dx, dy), ha=across, va=along)
        taken.append(text.get_window_extent().padded(1.2 * around))


def _shared(one: Any, other: Any) -> float:
    """The area that two boxes have in common."""
    across = min(one.x1, other.x1) - max(one.x0, other.x0)
    along = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, across) * max(0.0, along)
