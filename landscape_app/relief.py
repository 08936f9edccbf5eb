"""A plane in 3-D: the same values, colours and scale as its heat map, with height."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import panel as pn
import param
import xarray as xr
from panel.custom import JSComponent

from landscape_app import picture, plotting
from landscape_app.checkpoints.shelf import colours
from landscape_app.contours import contour_ink, contours
from landscape_app.heatmap import COLOURS
from landscape_app.look import STYLE
from landscape_app.scales import Scale

DIST = Path(pn.__file__).parent / "dist"
PLOTLY = next((str(f.relative_to(DIST).as_posix()) for f in DIST.glob("bundled/plotlyplot/plotly-*.min.js")), "")
HEIGHT = 0.62  # of the frame, where its longer side is 1
MARGIN = 0.04
LIFT = 0.01  # of what lies on the surface above it, else half of it is hidden
LONGEST_TITLE = 30
EYE = {"x": -1.35, "y": -1.6, "z": 1.5}


class Relief(JSComponent):
    """Draws `figure`, a dict of Plotly's ``data`` and ``layout``; the camera stays while figures come and go."""

    figure = param.Dict(default={})
    plotly = param.String(default=PLOTLY, doc="Where plotly.js lies among Panel's own files.")

    _esm = Path(__file__).with_suffix(".js")
    _stylesheets: ClassVar[list[str]] = [STYLE]


def reach(ds: xr.Dataset, metric: picture.Metric, scale: Scale) -> tuple[float, float]:
    """Lowest and highest position to be drawn: of the scale, and of a plane's checkpoints at their true values."""
    if picture.dims(ds) == 1:
        return scale.low, scale.high
    spots = scale.position(picture.at_checkpoints(ds, metric))
    spots = [scale.low, scale.high, *spots[np.isfinite(spots)]]
    return float(min(spots)), float(max(spots))


def figure(
    ds: xr.Dataset,
    metric: picture.Metric,
    scale: Scale,
    palette: str,
    heights: tuple[float, float],
    *,
    show_contours: bool = True,
    show_samples: bool = False,
    point: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """What Plotly draws. heights: `reach` of all that is to be seen on the same axis."""
    z = scale.position(metric.values)
    data = [_surface(ds, metric, scale, palette, z)]
    if show_contours and picture.whole(ds, metric):
        data.append(_contours(ds, metric, scale, heights))
    if show_samples:
        data.append(_samples(ds, metric, scale))
    data += _checkpoints(ds, metric, scale)
    if point is not None:
        data.append(_point(ds, z, point, heights))
    return {"data": data, "layout": _layout(ds, metric, scale, heights)}


def _surface(ds: xr.Dataset, metric: picture.Metric, scale: Scale, palette: str, z: np.ndarray) -> dict[str, Any]:
    colours = COLOURS[palette][::5]
    steps = np.linspace(0, 1, len(colours))
    return {
        "type": "surface",
        "x": ds["a"].values,
        "y": ds["b"].values,
        "z": z.astype("f4"),
        "cmin": scale.low,
        "cmax": scale.high,
        "colorscale": [[float(s), c] for s, c in zip(steps, colours, strict=True)],
        "customdata": metric.values.astype("f4"),
        "hovertemplate": f"{_plain(metric.short)} %{{customdata:.4~g}}<br>a %{{x:.3f}}<br>b %{{y:.3f}}<extra></extra>",
        "contours": {axis: {"highlight": False} for axis in "xyz"},
        "lighting": {"ambient": 0.72, "diffuse": 0.55, "specular": 0.04, "roughness": 0.9},
        "colorbar": {
            "tickvals": scale.positions,
            "ticktext": list(scale.labels.values()),
            "title": {"text": _plain(metric.title), "side": "right"},
            "thickness": 14,
            "len": 0.72,
            "outlinewidth": 0,
            "x": 1.0,
        },
    }


def _contours(ds: xr.Dataset, metric: picture.Metric, scale: Scale, heights: tuple[float, float]) -> dict[str, Any]:
    lift = LIFT * (heights[1] - heights[0])
    pieces, inks = [np.empty((0, 3))], []
    for _, level, lines in contours(ds, metric, scale):
        for line in lines:
            pieces.append(np.column_stack([line, np.full(len(line), level + lift)]))
            pieces.append(np.full((1, 3), np.nan))  # a gap
            inks += [contour_ink(scale, level)] * (len(line) + 1)
    x, y, z = np.concatenate(pieces).T.astype("f4")
    return _line(x, y, z, inks, 3)


def _line(x: Any, y: Any, z: Any, colour: str | list[str], width: float) -> dict[str, Any]:
    return {
        "type": "scatter3d",
        "mode": "lines",
        "x": x,
        "y": y,
        "z": z,
        "line": {"color": colour, "width": width},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _samples(ds: xr.Dataset, metric: picture.Metric, scale: Scale) -> dict[str, Any]:
    return {
        "type": "scatter3d",
        "mode": "markers",
        "x": ds["sample_a"].values,
        "y": ds["sample_b"].values,
        "z": scale.position(metric.samples),
        "marker": {"size": 2, "color": "#ffffff", "line": {"color": plotting.INK, "width": 0.5}},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _spots(ds: xr.Dataset, metric: picture.Metric, scale: Scale) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the checkpoints are: at their true values; NaN for one without, and beyond the picture."""
    a, b = ds["marker_a"].values, ds["marker_b"].values
    (a0, a1), (b0, b1) = picture.extent(ds, "a"), picture.extent(ds, "b")
    inside = (a0 <= a) & (a <= a1) & (b0 <= b) & (b <= b1)
    lift = LIFT * (scale.high - scale.low)
    return a, b, np.where(inside, scale.position(picture.at_checkpoints(ds, metric)) + lift, np.nan)


def _checkpoints(ds: xr.Dataset, metric: picture.Metric, scale: Scale) -> list[dict[str, Any]]:
    a, b, z = _spots(ds, metric, scale)
    said = plotting.checkpoints(ds, metric, picture.at_checkpoints(ds, metric))
    spots = {
        "type": "scatter3d",
        "mode": "markers",
        "x": a,
        "y": b,
        "z": z,
        "marker": {
            "size": [6 if named else 4 for named in picture.labelled(ds)],
            "color": said.pop("colour"),
            "line": {"color": "#ffffff", "width": 1.5},
        },
        "customdata": [[_plain(part) for part in row] for row in zip(*said.values(), strict=True)],
        "hovertemplate": "%{customdata[0]}<br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
        "showlegend": False,
    }
    run = [_line(a, b, z, plotting.ACCENT, 5)] if picture.trajectory(ds) else []
    return [*run, spots]


def _names(ds: xr.Dataset, metric: picture.Metric, scale: Scale) -> list[dict[str, Any]]:
    """Beside a checkpoint its name, which is seen even where the surface hides it."""
    names = [_plain(str(name)) for name in ds["marker_name"].values]
    spots = zip(names, colours(ds, "marker"), picture.labelled(ds), *_spots(ds, metric, scale), strict=True)
    look = {"font": {"color": "#ffffff", "size": 11}, "bgcolor": plotting.INK, "opacity": 0.85, "borderpad": 3}
    arrow = {"ax": 26, "ay": -26, "arrowhead": 0, "arrowwidth": 1.5}
    return [
        {"text": name, "x": x, "y": y, "z": z, "arrowcolor": colour, **look, **arrow}
        for name, colour, shown, x, y, z in spots
        if shown and np.isfinite(z)
    ]


def _point(ds: xr.Dataset, z: np.ndarray, point: tuple[float, float], heights: tuple[float, float]) -> dict[str, Any]:
    row, column = picture.nearest(ds, point)
    top = z[row, column]
    a, b = point
    pole = _line([a, a], [b, b], [heights[0], heights[1]], plotting.ACCENT, 4)
    return pole | {
        "mode": "lines+markers",
        "x": [a, a, a],
        "y": [b, b, b],
        "z": [heights[0], top, heights[1]],
        "marker": {"size": [0, 5, 0], "color": plotting.ACCENT},
    }


def _layout(ds: xr.Dataset, metric: picture.Metric, scale: Scale, heights: tuple[float, float]) -> dict[str, Any]:
    (a0, a1), (b0, b1) = picture.extent(ds, "a"), picture.extent(ds, "b")
    ratio = (b1 - b0) / (a1 - a0) if picture.equal_aspect(ds) else 1.0
    margin = MARGIN * (heights[1] - heights[0])

    def axis(title: str, **more: Any) -> dict[str, Any]:
        return {"title": {"text": _shortened(title), "font": {"size": 11}}, "showbackground": False, **more}

    return {
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"align": "left"},
        "scene": {
            "xaxis": axis(picture.axis_label(ds, "a"), range=[a0, a1]),
            "yaxis": axis(picture.axis_label(ds, "b"), range=[b0, b1]),
            "zaxis": axis(
                metric.title,
                range=[heights[0] - margin, heights[1] + margin],
                tickvals=scale.positions,
                ticktext=list(scale.labels.values()),
            ),
            "annotations": _names(ds, metric, scale),
            "aspectmode": "manual",
            "aspectratio": {"x": min(1, 1 / ratio), "y": min(1, ratio), "z": HEIGHT},
            "camera": {"eye": EYE, "center": {"x": 0, "y": 0, "z": -0.16}},
        },
    }


def _shortened(title: str) -> str:
    """Plotly breaks no line of an axis title; the units at its end stay."""
    words, bracket, units = title.partition(" [")
    return _plain(words if len(words) <= LONGEST_TITLE else f"{words[: LONGEST_TITLE - 1]}…") + _plain(bracket + units)


def _plain(label: str) -> str:
    """Plotly reads some HTML tags in its texts: names that others wrote have none."""
    return label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
