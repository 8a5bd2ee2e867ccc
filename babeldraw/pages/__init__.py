"""HTML pages that open offline: templates beside this file, each on `base.html`, and filling them.

Everything that a template is given is escaped, save what the template itself calls safe. No page
holds a script, and its Content-Security-Policy would let none run.
"""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image


def render(template: str, **values: Any) -> str:
    """The text of a page.

    Args:
        template: the name of a file in this folder.
        values: what it asks for. A template has `png` besides, for pictures given as arrays.

    Raises:
        jinja2.UndefinedError: the template asks for something that was not given.
    """
    return _environment.get_template(template).render(values)


def png(picture: np.ndarray) -> str:
    """A picture, uint8 [H, W, 3], as an address that holds all of it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    # By default a template escapes nothing and leaves out what it misses.
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.globals = {"png": png}
