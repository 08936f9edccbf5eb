"""The docstrings as Markdown, for the API reference: a Griffe extension.

They are written to be read in the source: ``name: what it is`` a line, what belongs to it indented below. Here each
such line becomes an item of a list, an indented example a block of code, an arXiv number a link, and a name of the
reference in backticks a link to its entry.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

REFERENCE = Path(__file__).parent / "api"
DIRECTIVE = re.compile(r"^::: (\S+)$(?!\n    options)", flags=re.M)  # those with a heading of their own
CODE = re.compile(r"(``.+?``|`[^`]+`)")
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{5})")
CELL = re.compile(r"^(`\S+`) +(.*)$")


class Docstrings(griffe.Extension):
    """Rewrites the docstrings of a package when it has been read."""

    def __init__(self) -> None:
        paths = [
            path for file in REFERENCE.glob("*.md") for path in DIRECTIVE.findall(file.read_text(encoding="utf-8"))
        ]
        self.entries = {path.rpartition(".")[2]: path for path in paths}

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for node in _within(pkg):
            if node.docstring:
                node.docstring.value = "\n\n".join(self.blocks(node))

    def blocks(self, node: griffe.Object) -> Iterator[str]:
        assert node.docstring
        names = _names(node)
        for block in re.split(r"\n[ ]*\n", node.docstring.value.expandtabs()):
            lines = block.strip("\n").splitlines()
            if lines[0].startswith("==="):
                yield "\n".join(f"* {self.text(row, node)}" for row in _rows(lines[1:-1]))
            elif _is_code(lines):
                yield "```python\n" + "\n".join(line.removeprefix("    ") for line in lines) + "\n```"
            else:
                yield from self.paragraph(lines, names, node)

    def paragraph(self, lines: list[str], names: str, node: griffe.Object) -> Iterator[str]:
        """The text before a list, the list."""
        named = rf"(?:{names})(?:(?:, | and )(?:{names}))*: " if names else "$."
        entries: list[list[str]] = []  # of each the bullet, "" for none, and the text
        for line in lines:
            text, inside = line.strip(), line.startswith(" ")
            if line.startswith("* "):
                entries.append(["* ", text[2:]])
            elif inside and re.match(r'"[\w-]+": ', text):
                entries.append(["    * ", text])
            elif not inside and (re.match(named, text) or _opens(text, entries)):
                entries.append(["* ", text])
            elif entries:
                entries[-1][1] += f" {text}"
            else:
                entries.append(["", text])
        items = []
        for bullet, entry in entries:
            first, *others = re.split(rf"(?<=[.;]) (?={named})", entry)
            if bullet:
                items.append(bullet + self.item(first, named, node))
            else:
                yield self.text(first, node)
            items += ["* " + self.item(other, named, node) for other in others]
        if items:
            yield "\n".join(items)

    def item(self, entry: str, named: str, node: griffe.Object) -> str:
        if found := re.match(named, entry):
            return f"**{found[0][:-2]}**: {self.text(entry[found.end() :], node)}"
        return self.text(entry, node)

    def text(self, words: str, node: griffe.Object) -> str:
        parts = CODE.split(words)
        return "".join(self.code(part, node) if i % 2 else _plain(part) for i, part in enumerate(parts))

    def code(self, word: str, node: griffe.Object) -> str:
        name = word.strip("`")
        first, _, rest = name.partition(".")
        path = self.entries.get(name.rpartition(".")[2] if name.startswith("analysis.") else first)
        if word.startswith("``") or not path or path.rpartition(".")[2] == node.name or name in _parameters(node):
            return word
        if name.startswith("analysis.") and path != name:
            return word
        return f"[{word}][{path}{f'.{rest}' if rest and not name.startswith('analysis.') else ''}]"


def _within(node: griffe.Object) -> Iterator[griffe.Object]:
    yield node
    for member in node.members.values():
        if not member.is_alias:
            yield from _within(member)  # type: ignore[arg-type]


def _parameters(node: griffe.Object) -> set[str]:
    function = node.members.get("__init__", node) if node.is_class else node
    return {parameter.name for parameter in getattr(function, "parameters", ())}


def _names(node: griffe.Object) -> str:
    """A pattern of what a docstring may explain: parameters, and attributes of a class."""
    known = _parameters(node) | (set(node.members) if node.is_class else set())
    return "|".join(sorted(map(re.escape, known), key=len, reverse=True))


def _opens(text: str, entries: list[list[str]]) -> bool:
    """Whether a line begins an item that explains a variable of a result."""
    return text.startswith("``") and (not entries or entries[-1][0] != "" or entries[-1][1].endswith(":"))


def _rows(lines: list[str]) -> Iterator[str]:
    """The rows of a simple table of reStructuredText with two columns, as text."""
    row = ""
    for line in lines:
        if found := CELL.match(line):
            if row:
                yield row
            row = f"{found[1]}: {found[2]}"
        else:
            row += f" {line.strip()}"
    yield row


def _is_code(lines: list[str]) -> bool:
    source = "\n".join(line.removeprefix("    ") for line in lines)
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return False
    return any(isinstance(one, ast.Import | ast.ImportFrom | ast.Assign | ast.For) for one in statements)


def _plain(words: str) -> str:
    for sign in "\\*[]<":
        words = words.replace(sign, f"\\{sign}" if sign != "<" else "&lt;")
    return ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", words)
