"""Figures for papers: a result as PDF, SVG or PNG, in the words, ticks and colours of the dashboard.

from landscape_app.figures import save_figure
save_figure(ds, "surface.pdf", width="single", scale="log", metric="loss")
"""

from landscape_app.figures.draw import figure
from landscape_app.figures.save import caption, save_figure

__all__ = ["caption", "figure", "save_figure"]
