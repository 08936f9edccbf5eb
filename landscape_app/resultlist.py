"""The results of a session: show one again, compare it, keep it as a file, forget it; open one from a file."""

from __future__ import annotations

import panel as pn

from landscape_app import look, words
from landscape_app.connectivity import words as connectivity_words
from landscape_app.controls import field
from landscape_app.entries import OF_PAIR, Entry
from landscape_app.exports import Exports
from landscape_app.findings import download, file_name
from landscape_app.spectrum import words as spectrum_words
from landscape_app.state import State
from landscape_app.text import text
from landscape_app.trajectory import words as trajectory_words

SAYS = {
    "surface": words.entry_line,
    "spectrum": spectrum_words.entry_line,
    "trajectory": trajectory_words.entry_line,
    "connectivity": connectivity_words.entry_line,
    **dict.fromkeys(OF_PAIR, connectivity_words.pair_entry_line),
}
NOTHING = "What you compute is kept here until you leave the page."


class ResultList:
    """One row a result, the latest first. It follows the state while its page is the one that is looked at."""

    def __init__(self, state: State, page: str):
        self.state, self.page = state, page
        self.rows: dict[int, _Row] = {}
        self.empty = look.html(f'<p class="ls quiet">{NOTHING}</p>')
        self.list = look.column()
        self.files = Files(state, page)
        self.refused = self.files.refused
        heading = look.html('<div class="ls"><h2>Results</h2></div>')
        self.view = look.column(heading, self.empty, self.list, self.files.view)
        state.shelf.param.watch(self._show, "labels")
        state.param.watch(self._show, ["entries", "shown", "compare", "other", "job", "page", "outdated"])
        for task in [task for task in state.tasks.values() if task is not state]:
            task.param.watch(self._show, ["shown", "job"])
        self._show()

    def _show(self, *_: object) -> None:
        with self.state.lock:
            self._list()

    def _list(self) -> None:
        state = self.state
        if state.page != self.page:
            return
        kept = {entry.number: entry for entry in state.entries}
        if list(kept) != list(self.rows):
            self.rows = {number: self.rows.get(number) or _Row(state, entry) for number, entry in kept.items()}
            self.list.objects = [row.view for row in reversed(self.rows.values())]
        for number, entry in kept.items():
            self.rows[number].show(entry)
        self.empty.visible = not kept


class Files:
    """Opens a saved result, or a saved session, and says why one was refused. page: the one that it stands on."""

    def __init__(self, state: State, page: str):
        self.state, self.page = state, page
        self.file = field(state, "file", accept=".nc,.h5,.zip")
        self.refused = look.html(visible=False)
        self.view = look.column(self.file, self.refused)
        state.param.watch(self._send, "file")
        state.param.watch(self._say_refused, "refused")
        self._say_refused()

    def _send(self, *_: object) -> None:
        """The state has the bytes of a file; only its widget knows the name.

        It is opened after this event: the widget takes no other file before its watchers have returned.
        """
        if self.state.file and self.state.page == self.page:
            sent = (self.file[0].filename or "file", self.state.file)
            self.state.file = None
            pn.state.execute(lambda: self._pass_on(sent), schedule=True)

    def _pass_on(self, sent: tuple[str, bytes]) -> None:
        with self.state.lock:
            self.state.upload = sent

    def _say_refused(self, *_: object) -> None:
        reason, details = self.state.refused
        self.refused.visible = bool(reason)
        self.refused.object = look.trouble(reason, details) if reason else ""


class _Row:
    def __init__(self, state: State, entry: Entry):
        self.state, self.entry = state, entry
        self.said = look.html()
        self.open = _button("Show", self._open)
        self.compare = _button("Compare", self._compare)
        self.remove = _button("Remove", self._remove)
        self.download = download(lambda: self.entry.result, "Download", "ls-small", margin=0)
        self.exports = Exports(state, entry)
        self.export = _button("Export", lambda _: self.exports.turn())
        buttons = look.bar(self.open, self.compare, self.download, self.export, self.remove)
        look.arrange(buttons, "ls-bar", "ls-close")
        self.view = look.column(self.said, buttons, self.exports.view, self.exports.refused, kind="ls-entry")

    def show(self, entry: Entry) -> None:
        state, self.entry, self.exports.entry = self.state, entry, entry
        surface = entry.kind == state.kind
        here = entry.page == state.page and entry.number == state.tasks[entry.kind].shown
        there = surface and state.compare and entry.number == state.other
        said = SAYS[entry.kind](entry)
        said += " · checkpoint changed since" if entry.number in state.outdated else ""
        mark = "A" if surface and here and state.compare else "B" if there else ""
        title = self.state.tasks[entry.kind].shown_as(entry.result).attrs["title"]
        self.said.object = (
            f'<div class="ls"><h3>{entry.number}. {text(title[:1].upper() + title[1:])}'
            f'{f"<b>{mark}</b>" if mark else ""}</h3><p class="quiet nums">{text(said)}</p></div>'
        )
        self.download.filename = file_name(entry.result)
        self.open.disabled = here
        self.compare.visible = surface
        self.compare.disabled = here or there
        self.remove.disabled = not entry.job.state.final
        look.arrange(self.view, "ls-entry", *(["ls-here"] if here else []))

    def _open(self, *_: object) -> None:
        self.state.show = self.entry.number

    def _compare(self, *_: object) -> None:
        self.state.param.update(other=self.entry.number, compare=True)

    def _remove(self, *_: object) -> None:
        self.state.remove = self.entry.number


def _button(label: str, does: object) -> pn.widgets.Button:
    button = pn.widgets.Button(label=label, stylesheets=[look.STYLE], css_classes=["ls-small"], margin=0)
    button.on_click(does)
    return button
