"""The table of checkpoints as a component of the page: it shows what it is given and says what is asked of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import param
from panel.custom import JSComponent

from landscape_app.look import STYLE


class Table(JSComponent):
    """Draws `table`, JSON; calls `asked` with what the browser asks for: {"does": ..., and what it takes}."""

    table = param.String(default="{}")

    _esm = Path(__file__).with_suffix(".js")
    _stylesheets: ClassVar[list[str]] = [STYLE, Path(__file__).with_suffix(".css").read_text(encoding="utf-8")]

    def __init__(self, asked: Callable[[dict[str, Any]], None], **params: Any):
        self._asked = asked
        super().__init__(**params)

    def show(self, table: dict[str, Any]) -> None:
        """Show other rows."""
        said = json.dumps(table)
        if said != self.table:
            self.table = said

    def _handle_msg(self, data: Any) -> None:
        if isinstance(data, dict):
            self._asked(data)
