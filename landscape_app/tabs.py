"""The keyboard's way through the pages: arrows go from tab to tab, Enter opens one."""

from pathlib import Path

from panel.custom import JSComponent


class TabKeys(JSComponent):
    """To stand beside a `pn.Tabs`, in one column. Source of the manner: WAI-ARIA Authoring Practices, Tabs Pattern."""

    _esm = Path(__file__).with_suffix(".js")
