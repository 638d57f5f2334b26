"""Students' Markdown in the formgrader and in feedback: HTML in it is shown, but what could act is taken out.

nbgrader shows a submission to a teacher who is logged in. A script in it could set marks in the teacher's name.
"""

from __future__ import annotations

import functools
import html

import bleach
from jinja2 import pass_context
from jinja2.runtime import Context
from nbconvert.exporters import HTMLExporter

TAGS = "a abbr b blockquote br code del div em h1 h2 h3 h4 h5 h6 hr i img kbd li ol p pre s span strong sub sup".split()
TAGS += "table tbody td th thead tr ul".split()
ATTRIBUTES = {"a": ["href", "title"], "img": ["src", "alt", "title", "width", "height"], "*": ["class", "align"]}
PROTOCOLS = ("http", "https", "mailto", "data")  # pictures that were pasted are data


@functools.cache
def exporter() -> HTMLExporter:
    """Renders Markdown as nbconvert does: mathematics, attached pictures and all."""
    return HTMLExporter()


@pass_context
def markdown(context: Context, source: str) -> str:
    """In place of nbconvert's `markdown2html`; what that cannot render, such as a picture that is missing, is shown as text."""
    try:
        page = exporter().markdown2html(context, source)
    except Exception:
        page = f"<pre>{html.escape(source)}</pre>"
    return bleach.clean(page, tags=TAGS, attributes=ATTRIBUTES, protocols=PROTOCOLS, strip=True)
