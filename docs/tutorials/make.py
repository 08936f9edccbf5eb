"""Run the tutorials again and store what they show: ``python docs/tutorials/make.py``. Needs the extra ``test``.

Of live views the picture is stored that they bring along, and nothing that names this machine.
"""

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
SECONDS = 300


def executed(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A notebook as it is after a run in an empty folder, with what is worth storing of its outputs."""
    book = copy.deepcopy(book)
    kernel = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(book, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}})
        client.execute(env=kernel)
    for cell in book.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := _kept(output))]
    book.metadata = {"kernelspec": book.metadata["kernelspec"], "language_info": {"name": "python"}}
    return book


def _kept(output: Any) -> Any:
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    live = {"application/vnd.holoviews_exec.v0+json", "application/vnd.holoviews_load.v0+json"} & set(output.data)
    kinds = ("image/png",) if live or "image/png" in output.data else ("text/plain",)
    output.data = {kind: output.data[kind] for kind in kinds if kind in output.data}
    output.metadata = {}
    return output if output.data else None


if __name__ == "__main__":
    for notebook in sorted(HERE.glob("*.ipynb")):
        nbformat.write(executed(nbformat.read(notebook, as_version=4)), notebook)
        print(notebook.name)
