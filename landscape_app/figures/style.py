"""How figures for papers look: widths, fonts, lines. Matplotlib is imported when the first figure is drawn."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from landscape_app.colours import INK
from landscape_app.scales import linear_ticks
from landscape_app.text import number, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {"single": 3.25, "double": 6.75}  # inches: one column of a journal, and both
TALLEST = 8.75  # inches: a page
FONTS = ("Arial", "Liberation Sans")  # letters of the same widths; the first that is installed
COMPLETE = "DejaVu Sans"  # comes with Matplotlib, and has λ, ₁ and ⁻
SMALL = 7
LETTER = 4.1  # points: the mean width of one at the size of an axis title
COMMON = {0x27C2: "⊥"}  # signs that fonts lack, and those that they have
QUIET = "#7f8691"
UNKNOWN = "#dcdfe3"

ROUNDNESS = "152346789"  # first digits of numbers, those that are shown rather than others first

_one_at_a_time = threading.RLock()  # Matplotlib's settings are the process's


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib with this style. Everything is drawn and written inside it."""
    import matplotlib
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    family = [*[name for name in FONTS if name in installed][:1], COMPLETE]
    plain = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}  # not set back
    with _one_at_a_time, matplotlib.rc_context({**plain, **_settings(family)}):
        yield


def _settings(family: list[str]) -> dict[str, Any]:
    return {
        "font.family": family,
        "font.size": 8,
        "text.parse_math": False,
        "text.color": INK,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "axes.labelcolor": INK,
        "axes.labelpad": 3,
        "axes.titlepad": 4,
        "axes.linewidth": 0.6,
        "axes.edgecolor": INK,
        "legend.fontsize": SMALL,
        "legend.frameon": False,
        "legend.handlelength": 1.8,
        "legend.borderaxespad": 0.3,
        "lines.linewidth": 1.2,
        "patch.linewidth": 0.6,
        "figure.dpi": 300,
        "savefig.dpi": 300,
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
        "svg.hashsalt": "landscape",
        **{f"{axis}tick.{name}": value for axis in "xy" for name, value in TICKS.items()},
    }


TICKS = {"labelsize": SMALL, "major.width": 0.6, "major.size": 2.5, "major.pad": 2.5, "color": INK, "labelcolor": INK}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, whose parts arrange themselves."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    made.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    return made


def title_lines(label: str, inches: float) -> str:
    """An axis title on as many lines as that much room needs."""
    return "\n".join(wrap(label.translate(COMMON), max(8, int(72 * inches / LETTER)), whole_words=False))


def coordinates(axis: Any, low: float, high: float, most: int = 8) -> None:
    """Round numbers along an axis that is linear."""
    places = linear_ticks(low, high, most)
    ticks(axis, places, [number(place, 6) for place in places])


def apart(positions: Sequence[float], labels: Sequence[str], reach: float, inches: float, letters: bool) -> list[str]:
    """Labels that have room along an axis, '' in place of the others. reach: of the axis, in units of the positions.

    letters: whether they stand one after another, so that their lengths count.
    """
    points = 72 * inches / abs(reach)
    halves = [(0.56 * SMALL * len(label) + 2 if letters else SMALL + 0.5) / 2 for label in labels]
    taken: list[tuple[float, float]] = []
    for i in sorted(range(len(labels)), key=lambda i: ROUNDNESS.find(labels[i].strip("0.−")[:1]) if i else -1):
        low, high = (positions[i] * points + side * halves[i] for side in (-1, 1))
        if all(high <= start or low >= end for start, end in taken):
            taken.append((low, high))
        else:
            labels = [*labels[:i], "", *labels[i + 1 :]]
    return list(labels)


def ticks(axis: Any, places: Sequence[float], labels: Sequence[str]) -> None:
    """Exactly these ticks on an axis of a chart or a colour bar, and no small ones between them."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_ticklabels(labels)
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def frame(axes: Axes) -> None:
    """The axes of a chart of curves: open at the top and at the right, with faint lines at the values."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e3e6ea", linewidth=0.5)
    axes.set_axisbelow(True)


def fit_height(drawn: Figure) -> None:
    """Take away the height that pictures of a fixed shape leave empty."""
    for _ in range(3):
        drawn.draw_without_rendering()
        used = drawn.get_tightbbox()
        height = min(TALLEST, used.height + 0.08)
        if abs(height - drawn.get_figheight()) < 0.01:
            break
        drawn.set_figheight(height)
    drawn.draw_without_rendering()
