"""Put the page together: one file that loads nothing and lets nothing in it run but its own script.

The template escapes whatever it is given. Three parts go in as they are: the package's own style sheet and script, and
the data, which is JSON that HTML cannot read as anything else.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from inversion.report.studies import Study
from inversion.report.summary import Summary

POLICY = (
    "default-src 'none'; style-src '{style}'; script-src '{script}'; img-src data:; base-uri 'none'; form-action 'none'"
)


def page(title: str, summary: Summary, data: Any, studies: Sequence[Study] = ()) -> str:
    """Return the HTML of the page.

    Args:
        title: Plain text.
        summary: Its first part, plain text.
        data: What the script reads, in JSON types.
        studies: Sections between the figures and the reader, plain text.
    """
    style, script = (files("inversion.report").joinpath(name).read_text(encoding="utf-8") for name in _PARTS)
    environment = Environment(
        loader=PackageLoader("inversion.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        policy=POLICY.format(style=source_hash(style), script=source_hash(script)),
        title=title,
        summary=summary,
        studies=studies,
        style=Markup(style),
        script=Markup(script),
        data=Markup(embedded_json(data)),
    )


_PARTS = ("report.css", "report.js")


def embedded_json(data: Any) -> str:
    """JSON that can stand inside a script element: ASCII only, and no ``<``, ``>`` or ``&`` that HTML could read.

    Raises:
        ValueError: There is a NaN or an infinity, which JSON does not have.
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    # ensure_ascii has escaped U+2028 and U+2029 already.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def source_hash(text: str) -> str:
    """The content-security policy's name for an inline block."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
