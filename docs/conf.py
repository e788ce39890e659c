"""Sphinx settings: Markdown pages, and a reference made from the docstrings. Build with the command in CONTRIBUTING.md.

Nothing is fetched: names of other packages get no link, names of this one must resolve (``nitpicky``).
"""

import dataclasses
import inspect
import re
from typing import Any

from sphinx.application import Sphinx

import inversion

project = "inversion"
author = "The inversion developers"
copyright = author
version = release = inversion.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "sphinxarg.ext"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough", "myst.domains"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
add_module_names = False
nitpicky = True
_OTHERS = "|".join(
    [
        "accelerate",
        "collections",
        "matplotlib",
        "numpy",
        "np",
        "os",
        "pandas",
        "pathlib",
        "pd",
        "random",
        "torch",
        "transformer_lens",
        "transformers",
        "trl",
        "typing",
        "xarray",
        "xr",
    ]
)
# Types of parameters that only code inside a room passes on.
_INTERNAL = (
    r"inversion\.(demo\.tasks\.DemoProblem|demo\.recipe\.Batch|figures\.panels\.Drawn|runs\.Piece|probes\.pace\.Pace)"
)
nitpick_ignore_regex = [
    ("py:.*", rf"({_OTHERS})\..*"),
    ("py:class", r"Axes|Figure|Tensor|optional|(dict|tuple)\[.*"),
    ("py:class", _INTERNAL),
]

html_theme = "furo"
html_title = f"inversion {release}"
html_copy_source = False
html_show_sphinx = False


def list_fields(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turn the lines ``name: what it is`` of a dataclass's docstring into a list of its fields.

    Where the fields carry their description as ``help``, as those of a configuration do, the list is made from that.
    """
    if what != "class" or not (dataclasses.is_dataclass(thing) or hasattr(thing, "_fields")):
        return
    known = [f.name for f in dataclasses.fields(thing)] if dataclasses.is_dataclass(thing) else list(thing._fields)
    rewritten: list[str] = []
    for line in lines:
        match = re.match(r"((?:\w+, )*\w+): (.*)", line)
        names = match[1].split(", ") if match else []
        if match and set(names) <= set(known):
            rewritten += [f":ivar {field}: {match[2]}" for field in names]
        else:
            rewritten.append(line)
    own = inspect.get_annotations(thing)
    described = [f for f in (dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()) if f.name in own]
    rewritten += [f":ivar {f.name}: {f.metadata['help']}" for f in described if "help" in f.metadata]
    lines[:] = rewritten


def stay_inside(app: Sphinx, name: str, source: list[str]) -> None:
    """Point links to files beside ``docs`` at the pages that include them."""
    for file, page in {"CHANGELOG": "changes", "LAB_NOTES": "lab-notes"}.items():
        source[0] = source[0].replace(f"](../{file}.md", f"]({page}.md")


def setup(app: Sphinx) -> None:
    """Connect the two functions above."""
    app.connect("autodoc-process-docstring", list_fields)
    app.connect("source-read", stay_inside)
