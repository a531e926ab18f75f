"""Elements of a page. Text is escaped unless it is an element already, so nothing that a file says becomes markup."""
from __future__ import annotations

import base64
import re
from html import escape

# letters that no page may hold: control characters, halves of pairs, and those that turn the direction of what follows
UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


class Element(str):
    """Markup that this package made."""


def clean(content: object) -> str:
    """Text without the letters that no page may hold."""
    return UNFIT.sub("\ufffd", str(content))


def text(content: object) -> Element:
    """Anything as markup: elements as they are, the rest escaped."""
    return content if isinstance(content, Element) else Element(escape(clean(content)))


def tag(name: str, *children: object, **attributes: object) -> Element:
    """An element; None attributes are left out, `class_` is `class`.

    Example:
        >>> tag("td", "a < b", class_="best", title=None)
        '<td class="best">a &lt; b</td>'
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    opened = "".join(f' {key}="{text(value)}"' for key, value in given.items())
    return Element(f"<{name}{opened}>{join(*children)}</{name}>")


def join(*children: object) -> Element:
    return Element("".join(map(text, children)))


def png(content: bytes, alternative: str) -> Element:
    """A picture inside the page."""
    return Element(f'<img alt="{text(alternative)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">')
