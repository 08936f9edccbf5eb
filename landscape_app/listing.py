"""A table of what a session has, for pages that list: sorted and searched in the browser, in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import param
from panel.custom import JSComponent

from landscape_app.look import STYLE


class Listing(JSComponent):
    """Rows under columns. A row with its `id`, `cells` by the column's name, and `actions` that its buttons ask for.

    A cell has a `text`; it may have a `note` beneath, a `tone` as a Message has it, a `share` of 100 for a bar, and
    what to `sort` by where that is not the text. An action says what it `does` and its `label`; `does` and the row's id
    go to `act`.
    """

    label = param.String(doc="What the table is of, for who cannot see it.")
    columns = param.List(default=[], doc="A dict of name and label each.")
    rows = param.List(default=[])
    sort = param.String(doc="Name of the column that is sorted by at first, the last row first.")
    selectable = param.Boolean(default=False, doc="Whether rows can be ticked.")
    selected = param.List(default=[], doc="Ids of the rows that are ticked.")
    detail = param.Dict(default={}, doc="The id of a row, and the html beneath it.")
    empty = param.String(doc="What is said where there is no row.")

    _esm = Path(__file__).with_suffix(".js")
    _stylesheets: ClassVar[list[str]] = [STYLE]

    def __init__(self, act: Callable[[str, int], None], **params: Any):
        self._act = act
        super().__init__(sizing_mode="stretch_width", margin=0, **params)

    def show(self, rows: Sequence[dict[str, Any]]) -> None:
        """Show these rows; what was ticked or opened of others is no more."""
        ids = [row["id"] for row in rows]
        self.param.update(
            rows=list(rows),
            selected=[one for one in self.selected if one in ids],
            detail=self.detail if self.detail.get("id") in ids else {},
        )

    def open(self, row: int, html: str) -> None:
        """Show HTML beneath a row; once more takes it away."""
        self.detail = {} if self.detail.get("id") == row else {"id": row, "html": html}

    def _handle_msg(self, data: Any) -> None:
        """A browser may say anything: only what a row offers is done."""
        offered = [(action["does"], row["id"]) for row in self.rows for action in row["actions"]]
        asked = (data.get("does"), data.get("id")) if isinstance(data, dict) else None
        if asked in offered:
            self._act(*asked)
