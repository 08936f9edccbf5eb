"""The pages of the documentation are there, their links lead somewhere, and their Python runs as it stands."""

import inspect
import pkgutil
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import plane_result
from models import classification, mlp
from test_readme import BLOCKS, folder  # noqa: F401

import analysis
import analysis.connectivity
import analysis.curvature
import landscape_app.figures
from analysis import Curvature, Eigenpairs, Problem, save
from analysis.recording import Recorder

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
import pages  # noqa: E402

sys.path.remove(str(DOCS))

CONFIGURATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
NAVIGATION = re.findall(r"[\w/-]+\.md", CONFIGURATION.partition("\nnav:\n")[2])
TUTORIALS = {f"tutorials/{path.stem}.md": pages.tutorial(path) for path in sorted(DOCS.glob("tutorials/*.ipynb"))}
WRITTEN = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
PAGES = {name: pages.page(text, name) for name, text in WRITTEN.items()} | {
    name: text for name, (text, _) in TUTORIALS.items()
}
MADE = {f"tutorials/{picture}" for _, pictures in TUTORIALS.values() for picture in pictures}
DIRECTIVES = [path for text in PAGES.values() for path in re.findall(r"^::: (\S+)", text, flags=re.M)]


def own(name):
    """The Python of a page that does not come from the README, whose own tests run it."""
    return [block for block in re.findall(r"```python\n(.*?)```", PAGES[name], flags=re.S) if block not in BLOCKS]


def test_the_navigation_names_each_page_once():
    assert sorted(NAVIGATION) == sorted(PAGES)


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_a_page_can_be_read_where_nothing_is_built(name):
    text = WRITTEN[name]
    assert len(re.findall(r"^```", text, flags=re.M)) % 2 == 0
    assert "<!-- include" not in "".join(re.findall(r"^```.*?^```", text, flags=re.M | re.S))
    for line in re.findall(r"^.*<!-- include.*$", text, flags=re.M):
        file, _, anchor = re.match(r"\[[^\]]+\]\(([^)]+)\) <!--", line)[1].partition("#")
        source = (DOCS / name).parent / file
        headings = re.findall(r"^#+ (.+)$", source.read_text(encoding="utf-8"), flags=re.M)
        assert not anchor or anchor in [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_links_and_pictures_of_a_page_resolve(name):
    text = re.sub(r"^```.*?^```", "", PAGES[name], flags=re.M | re.S)
    assert PAGES[name].count("```") % 2 == 0
    assert "<!-- include" not in text
    assert not re.search(r"<(img|script|link|iframe)|!\[[^\]]*\]\(\w+:", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (DOCS / name).parent.joinpath(file).resolve().relative_to(DOCS).as_posix() if file else name
        assert there in PAGES or there in MADE or (DOCS / there).is_file(), target
        assert not anchor or anchor in map(slug, re.findall(r"^#+ (.*)", PAGES[there], flags=re.M)), target


def slug(heading):
    return re.sub(r"[^\w]+", "-", heading.lower()).strip("-")


@pytest.mark.parametrize("text", ['from "no such line"', 'from "## Start" to "no such line"'])
def test_what_cannot_be_included_is_an_error(text):
    with pytest.raises(LookupError, match="no line that begins with 'no such line'"):
        pages.page(f"<!-- include README.md {text} -->", "index.md")


def test_every_public_name_is_in_the_reference():
    listed = {path.rpartition(".")[2] for path in DIRECTIVES}
    for module in (analysis, analysis.curvature, analysis.connectivity, landscape_app.figures):
        assert set(module.__all__) <= listed, module.__name__


def test_the_reference_names_what_exists_and_has_a_docstring():
    assert len(DIRECTIVES) == len(set(DIRECTIVES)) > 80
    for path in DIRECTIVES:
        assert inspect.getdoc(pkgutil.resolve_name(path)), path


@cache
def spectrum():
    problem = Problem(mlp(), "cross_entropy", classification())
    return list(Eigenpairs(Curvature(problem, problem.checkpoint()), largest=2, smallest=1).steps())[-1]


@pytest.fixture
def names(folder):  # noqa: F811
    """What a reader has: a model, data, checkpoints, a run, a project file and saved results."""
    model, (x, y) = mlp(), classification()
    problem = Problem(mlp(), "cross_entropy", (x, y))
    recorder, optimizer = Recorder("runs/mlp", every=1), torch.optim.SGD(model.parameters(), 0.1)
    for step in range(2):
        recorder(step, model, optimizer)
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    save(plane_result(), "surface.nc")
    save(spectrum(), "spectrum.nc")
    Path("my_project.py").write_text(BLOCKS[3])
    a, b, c = (problem.checkpoint(mlp(seed=seed), name=str(seed)) for seed in (1, 2, 3))
    given = {"model": model, "x": x, "y": y, "x_train": x, "y_train": y}
    return {**given, "problem": problem, "checkpoint": problem.checkpoint(), "a": a, "b": b, "c": c}


@pytest.mark.parametrize("name", [name for name in sorted(PAGES) if name.startswith("how-to/") and own(name)])
def test_the_python_of_a_how_to_runs(name, names):
    for block in own(name):
        exec(compile(block, name, "exec"), names)
    if name.endswith("saving.md"):
        assert names["again"].attrs["status"] == names["ds"].attrs["status"] == "converged"
        assert names["spectrum"].attrs["status"] == "converged"
    if name.endswith("reports.md"):
        assert Path("report.html").stat().st_size > 100_000
    if name.endswith("figures.md"):
        assert Path("titled.pdf").read_bytes().startswith(b"%PDF")


def test_the_site_builds_and_fetches_nothing(tmp_path):
    pytest.importorskip("mkdocs", reason="no MkDocs: install the extra `docs`")
    pytest.importorskip("mkdocstrings_handlers.python", reason="no mkdocstrings: install the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img|iframe|source)[^>]*?(?:src|href)=\"?([^\s\">]+)", page.read_text())
        assert loaded
        assert not [address for address in loaded if re.match(r"(\w+:)?//", address)], page
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(\w+:)?//", sheet.read_text()), sheet
    assert "<strong>convention</strong>" in (tmp_path / "api" / "connectivity.html").read_text()
