"""Text for people. Names and messages that others wrote enter HTML only through `text`."""

from __future__ import annotations

import html
import math
import textwrap
import traceback

from analysis import LandscapeError

TAIL_LINES = 30
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
NO_MEMORY = "There was not enough memory. Use fewer samples or a smaller model, or close other programs."


def text(value: object) -> str:
    """`value` as HTML that shows it literally, whatever it contains."""
    return html.escape(str(value), quote=True)


def number(value: float, digits: int = 3) -> str:
    """A number to `digits` significant digits: 0.0213, 12.3, 1.2e-05, with a true minus sign."""
    value = float(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}g}".replace("-", "−")


def eigenvalue(pair: int, largest: int) -> str:
    """The name of an eigenvalue among `largest` from the top, then those from the bottom: λ₁, λ₂ ...; λₙ, λₙ₋₁ ..."""
    if pair < largest:
        return f"λ{str(pair + 1).translate(SUBSCRIPTS)}"
    rank = pair - largest
    return f"λₙ₋{str(rank).translate(SUBSCRIPTS)}" if rank else "λₙ"


def coordinate(value: float) -> str:
    """A place on a picture: rounding noise about 0 is 0."""
    return number(round(float(value), 4) + 0.0)


def percent(fraction: float) -> str:
    """A fraction as a percentage: 0.0084 gives '0.84 %', 1.23 gives '123 %'."""
    value = 100 * float(fraction)
    whole = 99.5 <= abs(value) < math.inf
    return f"{number(round(value), 15) if whole else number(value, 2)} %"


def duration(seconds: float) -> str:
    """A time as people say it: '0.4 s', '38 s', '3 min 20 s', '2 h 05 min'."""
    seconds = float(seconds)
    if not math.isfinite(seconds) or seconds < 0:
        return "unknown"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def wrap(label: str, longest: int, whole_words: bool) -> list[str]:
    """An axis title on lines of at most `longest` letters; if it needs several, its units begin one of their own."""
    if len(label) <= longest:
        return [label]
    name, bracket, units = label.partition(" [")
    parts = (name, bracket.lstrip() + units)
    lines = (textwrap.wrap(part, longest, break_long_words=not whole_words, break_on_hyphens=False) for part in parts)
    return [line for part in lines for line in part]


def explain(error: BaseException) -> tuple[str, str]:
    """What to tell a person about an error: (what happened, technical details or '').

    A LandscapeError says itself what happened and what to do; it has details where the user's own code raised
    the error behind it. Anything else is named by its type and text, with the end of its traceback.
    """
    if isinstance(error, LandscapeError):
        return str(error), str(getattr(error, "details", ""))
    if isinstance(error, MemoryError):
        return (
            "There was not enough memory. Use fewer samples or a smaller model, or close other programs.",
            _tail(error),
        )
    try:
        said = str(error)
    except Exception:  # an exception of the user's own whose text cannot be made
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__, _tail(error)


def _tail(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(lines if len(lines) <= TAIL_LINES else ["…", *lines[-TAIL_LINES:]])
