"""How the app looks: one stylesheet, and the HTML panes and cards that use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import panel as pn

from landscape_app.text import text

STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")


def html(body: str = "", **options: Any) -> pn.pane.HTML:
    """A pane for HTML that this package wrote; what others wrote must have gone through `text`."""
    return pn.pane.HTML(body, stylesheets=[STYLE], sizing_mode="stretch_width", margin=0, **options)


def veil() -> pn.pane.HTML:
    """A pane that covers what stands before it in a `stack`."""
    return html(css_classes=["ls-veil"])


def column(*content: Any, kind: str = "", **options: Any) -> pn.Column:
    """Content from top to bottom; `kind` is a class of the stylesheet that arranges it otherwise."""
    classes = {"css_classes": [kind]} if kind else {}
    return pn.Column(*content, stylesheets=[STYLE], sizing_mode="stretch_width", margin=0, **classes, **options)


def page(content: Any) -> pn.Column:
    """A whole page inside a shell: as tall as its content."""
    return column(content, kind="ls-page")


def alone(body: str) -> pn.Column:
    """HTML in place of a whole page."""
    return column(html(body), kind="ls-alone")


def arrange(layout: pn.Column, *kinds: str) -> None:
    """Arrange a layout by other classes of the stylesheet."""
    if layout.css_classes != list(kinds):
        layout.css_classes = list(kinds)


def columns(choices: Any, picture: Any, results: Any) -> pn.Column:
    """Narrow cards of choices and results beside a wide one, or above and below it where there is no room."""
    cards = column(choices, kind="ls-card"), column(*picture, kind="ls-card"), column(results, kind="ls-card")
    arrange(cards[1], "ls-card", "ls-main")
    return column(*cards, kind="ls-columns")


def facing(*content: Any) -> pn.Column:
    """Two halves side by side, or one alone: see `arrange`."""
    return column(*content, kind="ls-single")


def half(caption: Any, picture: Any) -> pn.Column:
    """A picture under its caption, level with the one beside it."""
    return column(caption, picture)


def spread(picture: Any, findings: Any) -> pn.Column:
    """A picture and what it says beside it, or beneath it where there is no room."""
    return column(picture, findings, kind="ls-spread")


def stack(*layers: Any) -> pn.Column:
    """Where a veil may cover what stands before it."""
    return column(*layers, kind="ls-stack")


def pair(*content: Any) -> pn.Column:
    """Two of a kind side by side, or one above the other where there is no room."""
    return column(*content, kind="ls-pair")


def bar(*fields: Any) -> pn.Column:
    """Small fields in a row that wraps."""
    return column(*fields, kind="ls-bar")


def fold(title: str, *content: Any) -> pn.Card:
    """Choices that few people need, closed at first. `title` is plain text. A browser builds them when they are opened.

    They stand in a column of their own: a card that opens makes all that lies in it visible, wanted or not.
    """
    inside = column()
    made = pn.Card(
        inside,
        header=html(f'<div class="ls fold">{text(title)}</div>'),
        collapsed=True,
        stylesheets=[STYLE],
        css_classes=["card", "ls-fold"],
        sizing_mode="stretch_width",
        margin=(8, 0, 0, 0),
    )
    made.param.watch(lambda _: None if len(inside) else inside.extend(content), "collapsed")
    return made


def folded(title: str, body: str) -> str:
    """HTML `body` behind a line that opens it; `title` is plain text."""
    return f"<details><summary>{text(title)}</summary>{body}</details>"


def details(technical: str) -> str:
    """Folded technical details, given as plain text; nothing if there are none."""
    return folded("Details", f"<pre>{text(technical)}</pre>") if technical else ""


def trouble(reason: str, technical: str = "", title: str = "", advice: str = "") -> str:
    """A failure in words: what happened, what to do, the technical details folded. All given as plain text."""
    before = f"<h2>{text(title)}</h2>" if title else ""
    after = f'<p class="quiet">{text(advice)}</p>' if advice else ""
    said = f'<p class="said">{text(reason)}</p>'
    return f'<div class="ls alert" role="alert">{before}{said}{after}{details(technical)}</div>'
