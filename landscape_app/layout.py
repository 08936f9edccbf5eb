"""The page laid out once for many changes."""

from pathlib import Path

from panel.custom import JSComponent


class LayoutOnce(JSComponent):
    """To stand anywhere on a page: what changes before the next frame is laid out together."""

    _esm = Path(__file__).with_suffix(".js")
