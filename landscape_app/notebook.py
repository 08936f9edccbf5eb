"""The explorer in a notebook.

    from landscape_app.notebook import Explorer, view

Importing this loads what the browser needs into the notebook, out of the installed packages: nothing comes from a
network. Do it in a cell before the first that displays something.
"""

import panel as pn

from landscape_app.explorer import Explorer
from landscape_app.views import View, view

__all__ = ["Explorer", "View", "view"]

pn.extension(inline=True)
