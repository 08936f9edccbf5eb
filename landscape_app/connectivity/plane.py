"""The plane through a pair of checkpoints and a third, with the paths that lie in it."""

from __future__ import annotations

import numpy as np
import xarray as xr

from landscape_app import look, picture, plotting
from landscape_app.connectivity.picture import COLOURS, DASHES, tracks
from landscape_app.heatmap import Heatmap
from landscape_app.scales import Scale


class PlaneChart:
    """The surface's heat map, and on it the path as it is and the one to the matched checkpoint, or the curve."""

    def __init__(self) -> None:
        self.heatmap = Heatmap()
        self.figure = plot = self.heatmap.figure
        plot.name = "connectivity-plane"
        self.tracks = plotting.empty("xs", "ys", "colour", "dash")
        under = plot.renderers.index(self.heatmap.sample_dots)
        for look_ in ({"line_color": plotting.INK, "line_width": 4.5, "line_alpha": 0.55},
                      {"line_color": "colour", "line_width": 2.4, "line_dash": "dash"}):  # fmt: skip
            line = plot.multi_line("xs", "ys", **look_, source=self.tracks)
            under += 1
            plot.renderers.remove(line)  # names of checkpoints stand above it
            plot.renderers.insert(under, line)
        self.heatmap.show(contours=True, samples=False)
        self.pane = self.heatmap.pane
        self.box = look.column()

    def draw(self, ds: xr.Dataset, metric: str) -> None:
        """Show a metric of a result; the loss where it has no such metric."""
        shown = picture.metric(ds, metric if metric in picture.metrics(ds).values() else "loss")
        scale = Scale.of(picture.spanned(ds, shown), picture.spans_decades(shown))
        self.heatmap.draw(ds, shown, scale, "viridis")
        places = {stage: track(np.linspace(0, 1, 101)) for stage, track in tracks(ds).items()}
        self.tracks.data = {
            "xs": [place[:, 0] for place in places.values()],
            "ys": [place[:, 1] for place in places.values()],
            "colour": [COLOURS[stage] for stage in places],
            "dash": [DASHES[stage] for stage in places],
        }
