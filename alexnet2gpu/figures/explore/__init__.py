"""A page to play with, in one file: docs/explore.html. It needs no server, and asks none for anything.

    page.html   what is there     page.css   its look
    page.js     numbers added up, pictures, state     guess.js   questions

Pictures are SVG that the page writes itself: bars, steps and boxes need no library.
"""

import base64
import html
import json
import re
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any


def read_page(file: Path) -> dict[str, Any]:
    """What a page has been written from: after a change of its look, write_page(read_page(file), file)."""
    (packed,) = re.findall(r'id="data">([^<]*)<', Path(file).read_text())
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def write_page(found: dict[str, Any], file: Path) -> None:
    """What memory/explore.py has found, as a page."""
    text = {
        name: (files(__name__) / name).read_text()
        for name in ("page.html", "page.css", "page.js", "guess.js")
    }
    packed = zlib.compress(json.dumps(found, separators=(",", ":")).encode(), 9)
    parts = {
        "{name}": html.escape(found["name"]),
        "{css}": text["page.css"],
        "{js}": text["guess.js"] + text["page.js"].replace('"use strict";\n', ""),
        "{data}": base64.b64encode(packed).decode(),
    }
    page = text["page.html"]
    for mark, part in parts.items():
        page = page.replace(mark, part)
    Path(file).write_text(page)
