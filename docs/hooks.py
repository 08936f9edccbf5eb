"""MkDocs calls these while it builds: parts of other files go into the pages, the tutorials become pages."""

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import pages


def on_files(files: Files, config: Any, **_: Any) -> Files:
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        folder = Path(file.src_uri).parent.as_posix()
        text, pictures = pages.tutorial(Path(file.abs_src_path))
        files.append(File.generated(config, file.src_uri.removesuffix(".ipynb") + ".md", content=text))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"{folder}/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return pages.page(markdown, page.file.src_uri)
