"""What the pages of the documentation are made of besides their own text: parts of other files, and the tutorials.

A line ``<!-- include README.md from "..." to "..." -->`` stands for the lines of a file at the top of the repository
from the one that begins with the first text up to the one that begins with the second, which is left out; without
``to`` to the end of the file, without both for all of it. Where that is code, its fence goes along. The link before
it is what a reader of the plain file has instead.
"""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from posixpath import relpath

DOCS = Path(__file__).parent
ROOT = DOCS.parent
INCLUDE = re.compile(r'^(?:\[[^\]]+\]\(\S+\) )?<!-- include (\S+)(?: from "(.+?)")?(?: to "(.+?)")? -->$', flags=re.M)
LINK = re.compile(r"(?<=\]\()([^)\s#]+)")
FENCED = re.compile(r"^```.*?^```$", flags=re.M | re.S)


def page(markdown: str, address: str) -> str:
    """The text of a page, given its address below `docs`, with what it includes."""
    return INCLUDE.sub(lambda found: _part(*found.groups(), address), markdown)


def _part(file: str, first: str | None, last: str | None, address: str) -> str:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    start = _line(lines, first, 0, file) if first else 0
    if start and re.match(r"```\w+$", lines[start - 1]):
        start -= 1
    end = _line(lines, last, start + 1, file) if last else len(lines)
    part = "\n".join(lines[start:end])
    return _outside_code(part, lambda text: LINK.sub(lambda found: _moved(found[0], address), text))


def _line(lines: list[str], text: str, start: int, file: str) -> int:
    for number, line in enumerate(lines[start:], start):
        if line.startswith(text):
            return number
    raise LookupError(f"{file} has no line that begins with {text!r} after line {start}.")


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with a function applied to what stands between its blocks of code."""
    done, at = "", 0
    for block in FENCED.finditer(text):
        done, at = done + change(text[at : block.start()]) + block[0], block.end()
    return done + change(text[at:])


def _moved(target: str, address: str) -> str:
    """A link of a file at the top of the repository as one of a page."""
    if "://" in target:
        return target
    target = re.sub(r"^docs/tutorials/(\w+)\.ipynb$", r"docs/tutorials/\1.md", target)
    return relpath(target, PurePosixPath("docs", address).parent)


def tutorial(path: Path) -> tuple[str, dict[str, bytes]]:
    """An executed notebook as Markdown, and its pictures by name."""
    parts, pictures = [], {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"(?<=\]\()(\w+)\.ipynb(?=\))", r"\1.md", source))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            elif "image/png" in output["data"]:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(output["data"]["image/png"]))
                parts.append(f"![{source.splitlines()[-1]}]({name})")
            else:
                parts.append(f"```text\n{''.join(output['data']['text/plain'])}\n```")
    parts.append(f"[The notebook]({path.name})")
    return "\n\n".join(parts) + "\n", pictures
