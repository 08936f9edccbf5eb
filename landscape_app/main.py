"""The dashboard, as `panel serve landscape_app` runs it: once for each session."""

from functools import partial

import panel as pn
import panel_material_ui as pmui
import param

from landscape_app import look
from landscape_app.explorer import Explorer
from landscape_app.links import Address
from landscape_app.projects import SAMPLES, open_project, project_path
from landscape_app.text import explain

THEME = {
    "light": {"palette": {"primary": {"main": "#0072b2"}}},
    "dark": {
        "palette": {
            "primary": {"main": "#56b4e9", "contrastText": "#10161c"},
            "default": {"light": "#2a323b", "main": "#3a444f", "dark": "#c6ced8"},  # Cancel
            "background": {"default": "#12171d", "paper": "#12171d"},
        }
    },
}
HEADER = {
    "backgroundColor": "#16212c",
    "backgroundImage": "none",
    "boxShadow": "none",
    "& .MuiIconButton-root": {"color": "#ffffff"},
}
LOST = "The server does not answer. What is shown stays; start the server again and reload this page to go on."
RELOAD = "Mend the file and reload this page: it is read again."

pn.extension(notifications=True, disconnect_notification=LOST)

pmui.MultiChoice.param.visual_size.default = "small"
for widget in (pmui.Select, pmui.IntInput, pmui.FloatInput, pmui.TextInput, pmui.Checkbox):
    widget.param.size.default = "small"
for number in (pmui.IntInput, pmui.FloatInput):
    # − and + have no names for who cannot see them; the arrow keys do what they do
    number.param.sx.default = {"& .MuiIconButton-root": {"display": "none"}, "& input": {"marginLeft": "6px"}}

pn.Param.mapping[param.ListSelector] = pmui.MultiChoice  # a list takes Ctrl and a click, which few know

pmui.FileInput.variant = "outlined"  # Compute stands out
pmui.FileInput.uploaded_label = "Open another saved file"


def tell(trouble: str) -> None:
    """Say what went wrong with the address, once the page is there to say it on."""
    pn.state.onload(partial(pn.state.notifications.warning, trouble, duration=0))


path = project_path()
try:
    explorer = Explorer(open_project(path))
    first_look = "drawn=yes" if path == SAMPLES else ""
    address = Address(explorer.state, pn.state.location.search or first_look, tell)
    page = pn.Column(explorer, address.view, margin=0, sizing_mode="stretch_width")
except BaseException as error:  # whatever the user's file did, the page says it
    reason, technical = explain(error)
    page = look.alone(look.trouble(reason, technical, f"{path.name} cannot be shown", RELOAD))

shell = pmui.Page(
    title="Loss Landscape Explorer",
    main=[look.page(page)],
    theme_config=THEME,
    sx={".MuiAppBar-root": HEADER, ".MuiLinearProgress-root": {"display": "none"}},
)
with param.edit_constant(shell):
    shell.busy = False  # no longer the server's: to follow it the page is searched twice in every callback
shell.servable()
