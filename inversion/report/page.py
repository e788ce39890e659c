"""Put the page together: one file that loads nothing and lets nothing in it run but its own script."""

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from typing import Any

POLICY = (
    "default-src 'none'; style-src '{style}'; script-src '{script}'; img-src data:; base-uri 'none'; form-action 'none'"
)


def page(title: str, body: str, data: Any) -> str:
    """Return the HTML of the page.

    Args:
        title: Plain text.
        body: HTML that is safe as it stands: whoever made it has escaped what came from elsewhere.
        data: What the script reads, in JSON types.
    """
    style, script, template = (_part(name) for name in ("report.css", "report.js", "template.html"))
    parts = {
        "POLICY": POLICY.format(style=source_hash(style), script=source_hash(script)),
        "TITLE": escape(title),
        "STYLE": style,
        "BODY": body,
        "DATA": embedded_json(data),
        "SCRIPT": script,
    }
    # One pass over the template: what is put in is never searched again, so that no text can pose as a place.
    pieces = template.split("@@")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


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


def _part(name: str) -> str:
    return files("inversion.report").joinpath(name).read_text(encoding="utf-8")
