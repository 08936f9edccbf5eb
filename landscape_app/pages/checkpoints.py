"""All checkpoints of a problem in one table, which chooses, names and colours them for every page."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from functools import partial
from typing import Any

import panel as pn

from landscape_app import look
from landscape_app.checkpoints import words
from landscape_app.checkpoints.linking import CHOICES, WAYS, go, takes
from landscape_app.checkpoints.rows import Column, Row, arranged, columns, rows
from landscape_app.checkpoints.table import Table
from landscape_app.colours import CHECKPOINTS
from landscape_app.controls import button, field
from landscape_app.runpanel import RunPanel
from landscape_app.state import State
from landscape_app.text import text

title = "Checkpoints"
needs = 1

PLANE_WIDTH = 164
COLOURS = {colour: name for name, colour in CHECKPOINTS.items()}


def build(state: State) -> pn.viewable.Viewable:
    """The page: what to measure, what to do with the chosen rows, the table."""
    return CheckpointsPage(state).view


class CheckpointsPage:
    """Shows the rows that the state has; what the table asks for goes to the state."""

    def __init__(self, state: State):
        self.state, self.task = state, state.checkpoints
        task = self.task
        self.table = Table(self.asked, sizing_mode="stretch_width", margin=0)
        self.run_panel = RunPanel(task, words.message, "Measure all", "Measure again")
        self.ways = {key: button(words.way(key, 0), partial(self._go, key)) for key in WAYS}
        self.ways["Plane"].width = PLANE_WIDTH  # its label changes
        self.chosen = look.html()
        self.download = pn.widgets.FileDownload(
            callback=self.file, filename="checkpoints.csv", label="Download table (CSV)", stylesheets=[look.STYLE],
            css_classes=["ls-link"], margin=(12, 0),
        )  # fmt: skip
        self.fields = {"problem": field(task, "problem", width=300), "reference": field(task, "reference", width=220)}
        self.fields["evaluate"] = field(task, "evaluate", width=180)
        card = look.column(
            look.bar(*self.fields.values()),
            self.run_panel.view,
            self.chosen,
            look.bar(*self.ways.values()),
            self.table,
            self.download,
            kind="ls-card",
        )
        self.view = look.column(card, kind="ls-whole")
        draw = self._draw
        task.param.watch(draw, ["problem", "result", "entries", "trouble", *task.look])
        state.shelf.param.watch(draw, ["labels", "colours", "pins"])
        for page, names in CHOICES.items():
            state.tasks[page].param.watch(draw, list(names))
        state.param.watch(draw, "page")
        self._draw()

    def asked(self, what: dict[str, Any]) -> None:
        """Do what the table asks for."""
        with self.state.lock:
            self._do(**what)

    def _do(self, does: str, **what: Any) -> None:
        task, shelf, known = self.task, self.state.shelf, list(self.task.param.selected.objects)
        before = self.table.table
        if does == "find":
            task.query = str(what["query"])
        elif does == "sort":
            column = str(what["column"])
            task.param.update(sort=column, descending=task.sort == column and not task.descending)
        elif does == "all":
            names = [name for name in what["names"] if name in known]
            kept = [name for name in task.selected if name not in names or what["on"]]
            task.selected = [*kept, *(name for name in names if what["on"] and name not in kept)]
        elif what.get("name") in known:
            if does == "pin":
                shelf.pin(task.problem, what["name"], bool(what["on"]))
            elif does == "rename":
                shelf.rename(task.problem, what["name"], str(what["label"]))
            elif does == "paint" and what["colour"] in ("", *COLOURS):
                shelf.paint(task.problem, what["name"], what["colour"])
        if self.table.table == before:
            self.table.param.trigger("table")  # a box that was clicked shows what is so

    def _go(self, key: str) -> None:
        with self.state.lock:
            go(self.state, key)

    def _draw(self, *_: object) -> None:
        with self.state.lock:
            if self.state.page == title.lower():
                self._show()

    def _show(self) -> None:
        task, found, known, heads = self.task, *self._rows()
        count = len(task.selected)
        for key, way in self.ways.items():
            label = words.way(key, count)
            if way.label != label:
                way.label = label
            way.disabled = not takes(key, count)
        labels = [self.state.shelf.label(task.problem, name) for name in task.selected]
        hidden = count - sum(row.chosen for row in found)
        said = words.selection(labels, hidden)
        self.chosen.object = f'<div class="ls"><p class="quiet" role="status">{text(said)}</p></div>'
        self.table.show(
            {
                "columns": [vars(column) for column in heads],
                "rows": [self._row(row, heads) for row in found],
                "sort": task.sort,
                "descending": task.descending,
                "query": task.query,
                "count": words.shown(len(known), found),
                "empty": "" if found else words.empty(task.query),
                "palette": list(CHECKPOINTS.items()),
            }
        )

    def _rows(self) -> tuple[list[Row], list[Row], list[Column]]:
        task, known = self.task, rows(self.state)
        return arranged(known, task.query, task.sort, task.descending), known, columns(self.state, known)

    def _row(self, row: Row, heads: list[Column]) -> dict[str, Any]:
        own = self.state.shelf.labels.get(self.state.shelf.key(self.task.problem, row.name), row.name)
        return {
            "name": row.name,
            "label": row.label,
            "own": own,
            "colour": row.colour,
            "colour_name": COLOURS[row.colour],
            "pinned": row.pinned,
            "chosen": row.chosen,
            "reason": row.reason,
            "cells": [words.cell(column, row) for column in heads[1:]],
        }

    def file(self) -> io.StringIO:
        """The rows that are shown, with all digits."""
        with self.state.lock:
            found, _, heads = self._rows()
            errors = [column.key for column in heads if any(column.key in row.errors for row in found)]
            out = io.StringIO()
            sheet = csv.writer(out)
            sheet.writerow(["name", "label", *(c.key for c in heads[1:]), *(f"{key}_se" for key in errors), "reason"])
            for row in found:
                values = {**row.values}
                if "written" in values:
                    values["written"] = datetime.fromtimestamp(float(values["written"])).isoformat(timespec="seconds")
                cells = [values.get(column.key, "") for column in heads[1:]]
                sheet.writerow([row.name, row.label, *cells, *(row.errors.get(k, "") for k in errors), row.reason])
            out.seek(0)
            return out
