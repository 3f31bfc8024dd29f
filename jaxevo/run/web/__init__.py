"""Self-contained HTML pages from the style, the scripts and the template in this folder.

A page works from a `file://` address without any network. All that a model wrote reaches it as
JSON in a data block whose `<`, `>` and `&` are escaped, and its scripts write only text nodes; its
policy lets the browser run nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxevo.run.logs import compact_json

_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
_FOLDER = Path(__file__).parent


def render_page(
    title: str, data: Mapping[str, Any], *, sections: Sequence[str], scripts: Sequence[str]
) -> bytes:
    """One page.

    Args:
      data: JSON values, what the scripts see as `data`.
      sections: ids of the page's empty sections, which the scripts fill.
      scripts: names of files in this folder without `.js`, or paths of others; they run as one.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    inline = {
        "style": _read("page.css"),
        "script": "\n".join(_read(f"{name}.js") for name in scripts),
    }
    template = Environment(autoescape=True).from_string(_read("page.html.jinja"))
    page = template.render(
        title=title,
        sections=sections,
        data=Markup(script_json(data)),
        **{name: Markup(text) for name, text in inline.items()},
        **{f"{name}_hash": _csp_hash(text) for name, text in inline.items()},
    )
    return encoded(page)


def script_json(value: Any) -> str:
    """JSON that can stand inside a `<script>` element: no `<`, `>`, `&` and no U+2028, U+2029."""
    return compact_json(value).translate(_ESCAPES)


def encoded(text: str) -> bytes:
    """A page's bytes; a lone surrogate, which has no UTF-8 form, becomes JSON's own escape."""
    return text.encode(errors="backslashreplace")


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
