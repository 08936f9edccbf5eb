"""From values to colours and heights: a linear or logarithmic scale with its ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from landscape_app.text import number

MOST_TICKS = 9
NEAR = 0.06  # of a scale: a tick that is nearer to where it is clipped gives way
MANTISSAS = (range(1, 10), (1, 2, 5), (1, 3), (1,))


@dataclass(frozen=True)
class Scale:
    """Where values are drawn. Positions are the values, or their log10 where `log` holds.

    low, high: positions of the smallest and largest finite value. ticks: values, ascending. centred: whether 0 lies in
    the middle, for values whose sign counts. clipped: whether values above the last tick are drawn as that one.
    """

    log: bool
    low: float
    high: float
    ticks: tuple[float, ...]
    centred: bool = False
    clipped: bool = False

    @classmethod
    def about_zero(cls, values: np.ndarray) -> Scale:
        """The linear scale that reaches as far on either side of 0 as the finite values go."""
        finite = np.abs(values[np.isfinite(values)])
        far = float(finite.max(initial=0.0)) or 1.0
        return cls(False, -far, far, tuple(linear_ticks(-far, far)), centred=True)

    @classmethod
    def of(cls, values: np.ndarray, log: bool, clip: float | None = None) -> Scale:
        """The scale that spans the finite values; linear where nothing is positive, 0 to 1 where nothing is finite.

        clip: what larger values are drawn as. It counts where it lies among the values.
        """
        finite = values[np.isfinite(values)]
        if log and (finite > 0).any():
            finite = finite[finite > 0]
        else:
            log = False
        if not finite.size:
            return cls(False, 0.0, 1.0, ())
        least, most = float(finite.min()), float(finite.max())
        if clip is not None and least < clip < most:
            return cls.of(np.array([least, clip]), log)._clipped(float(clip))
        ticks = log_ticks(least, most) if log else linear_ticks(least, most)
        low, high = (np.log10(least), np.log10(most)) if log else (least, most)
        if high - low < 1e-12 * max(1.0, abs(low)):
            low, high = low - 0.5, high + 0.5
        return cls(log, float(low), float(high), tuple(ticks))

    def _clipped(self, clip: float) -> Scale:
        """The same with a last tick where it ends, and room below that."""
        most = self.high - NEAR * (self.high - self.low)
        below = [tick for tick, place in zip(self.ticks, self.positions, strict=True) if place < most]
        return replace(self, ticks=(*below, clip), clipped=True)

    def position(self, values: np.ndarray | float | Sequence[float]) -> np.ndarray:
        """Positions of the values; NaN where a value has no logarithm."""
        values = np.asarray(values, dtype=np.float64)
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.log10(np.where(values > 0, values, np.nan))
        return np.minimum(values, self.high) if self.clipped else values

    @property
    def positions(self) -> list[float]:
        """Positions of the ticks."""
        return [float(p) for p in self.position(self.ticks)]

    @property
    def labels(self) -> dict[float, str]:
        """Position to text of each tick."""
        texts = [tick_label(tick) for tick in self.ticks]
        if self.clipped:
            texts[-1] = f"≥ {texts[-1]}"
        return dict(zip(self.positions, texts, strict=True))


def linear_ticks(least: float, most: float, count: int = MOST_TICKS) -> list[float]:
    """At most `count` round numbers from `least` to `most`, in steps of 1, 2 or 5 times a power of ten."""
    span = most - least
    if not span > 0:
        return [float(f"{least:.3g}")]
    power = 10.0 ** np.floor(np.log10(span / count))
    for step in power * np.array([1, 2, 5, 10, 20]):
        first, last = np.ceil(least / step - 1e-9), np.floor(most / step + 1e-9)
        if last - first + 1 <= count:
            break
    digits = max(0, int(-np.floor(np.log10(step))))
    return [round(float(i * step), digits) + 0.0 for i in range(int(first), int(last) + 1)]


def log_ticks(least: float, most: float, count: int = MOST_TICKS) -> list[float]:
    """At most `count` positive numbers from `least` to `most`: 1-2-5 a decade, or fewer, or round steps."""
    first, last = int(np.floor(np.log10(least))), int(np.ceil(np.log10(most)))
    found: list[float] = []
    for mantissas in MANTISSAS:
        every = [m * 10.0**e for e in range(first, last + 1) for m in mantissas]
        found = [v for v in every if least * (1 - 1e-9) <= v <= most * (1 + 1e-9)]
        if len(found) <= count:
            break
    if len(found) > count:
        found = found[:: int(np.ceil(len(found) / count))]
    return [float(f"{v:.6g}") for v in found] if len(found) >= 3 else linear_ticks(least, most, count)


def tick_label(value: float) -> str:
    """0.05, 200, 10⁵, 2·10⁻⁶."""
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        return number(value, 6)
    mantissa, exponent = f"{value:.6e}".split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    digits = number(float(mantissa), 6)
    return power if digits == "1" else f"{digits}·{power}"
