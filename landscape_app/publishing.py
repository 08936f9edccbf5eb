"""The commands that make results fit to be shown: figures for papers, reports for the browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from analysis import LandscapeError, load
from landscape_app.figures.style import WIDTHS


def add(commands: Any) -> None:
    """Add the commands to those of ``landscape``."""
    figure = commands.add_parser("figure", help="draw a result for a paper, as PDF, SVG or PNG")
    figure.add_argument(
        "results", type=Path, nargs="+", metavar="FILE.nc",
        help="a result, of whichever command; or several paths between one pair of checkpoints, named by their files",
    )  # fmt: skip
    figure.add_argument("--out", required=True, type=Path, metavar="FILE.pdf", help="or .svg or .png")
    figure.add_argument("--width", choices=list(WIDTHS), default="single", help="columns of a journal: 3.25 or 6.75 in")
    figure.add_argument("--linear", action="store_true", help="a linear scale (default: as in the dashboard)")
    figure.add_argument("--clip", type=float, metavar="VALUE", help="of a plane: draw larger values as this one")
    figure.add_argument("--metric", metavar="NAME", help="of a surface or of barriers (default: loss)")
    figure.add_argument("--pair", nargs=2, metavar=("A", "B"), help="the path between two of several checkpoints")
    figure.add_argument("--beside", action="store_true", help="caption (.txt), numbers (.csv) and result (.nc) too")
    figure.set_defaults(run=_figure, parser=figure)

    report = commands.add_parser("report", help="write results as one interactive HTML page that opens offline")
    report.add_argument("results", type=Path, nargs="+", metavar="FILE.nc", help="results, of whichever commands")
    report.add_argument("--out", required=True, type=Path, metavar="FILE.html", help="the page")
    report.set_defaults(run=_report, parser=report)


def _figure(options: argparse.Namespace) -> int:
    from landscape_app.figures import save_figure
    from landscape_app.figures.draw import one_of

    given = {file.stem: load(file) for file in options.results}
    if len(given) < len(options.results):
        raise LandscapeError(f"Two of the results are called alike; their names ({', '.join(given)}) tell them apart.")
    shown = given if len(given) > 1 else next(iter(given.values()))
    files = save_figure(
        shown,
        options.out,
        width=options.width,
        scale="linear" if options.linear else None,
        clip=options.clip,
        metric=options.metric,
        pair=options.pair,
        beside=options.beside,
    )
    print(f"Saved: {', '.join(map(str, files))} ({one_of(shown).attrs['title']})")
    return 0


def _report(options: argparse.Namespace) -> int:
    from landscape_app.report import save_report

    save_report([load(file) for file in options.results], options.out)
    count = len(options.results)
    print(f"Saved: {options.out} ({count} result{'' if count == 1 else 's'}; opens in any browser, without a network)")
    return 0
