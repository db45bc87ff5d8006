"""What of a page is shown, and what of that is its content: hidden, struck and navigation by tag, attribute and style.

Style sheets are read for two things only, `display: none` and `line-through`, by plain selectors (`.old`, `p.old`,
`#id`). Rules inside `@media` and the like hold elsewhere and are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_DROPPED = frozenset([
    "script", "style", "template", "noscript", "head", "svg", "canvas", "iframe", "object", "embed", "audio", "video",
    "button", "datalist", "rp",
])  # fmt: skip
_STRUCK_TAGS = frozenset(["s", "strike", "del"])
_NAVIGATION_ROLES = frozenset(["navigation", "banner", "contentinfo", "complementary", "search", "menu", "menubar"])
_NAVIGATION_TAGS = frozenset(["header", "footer", "aside"])
_CONTENT_TAGS = frozenset(["article", "main", "section", "blockquote", "td", "figure", "details"])
_NAVIGATION_WORDS = frozenset([
    "nav", "navi", "navbar", "gnav", "lnav", "globalnav", "navigation", "menu", "breadcrumb", "breadcrumbs", "bread",
    "topicpath", "sidebar", "side", "sidenav", "skip", "skiplink", "pagetop", "sns", "share", "pager", "pagination",
    "cookie", "cookies", "cookiebanner", "cookieconsent", "onetrust", "tool", "tools", "toolbar",
])  # fmt: skip
_NAMED_TAGS = frozenset(["div", "ul", "ol", "p", "section"])
_CONTENT_NAMES = frozenset(["main", "content", "contents", "maincontent", "main-content", "main_content"])
_WORD = re.compile(r"[A-Za-z]{1,40}")
_HIDDEN = re.compile(r"display\s{0,9}:\s{0,9}none|visibility\s{0,9}:\s{0,9}hidden", re.IGNORECASE)
_STRUCK = re.compile(r"text-decoration(?:-line)?\s{0,9}:[^;]{0,99}line-through", re.IGNORECASE)
_BRACES = re.compile(r"[{}]")
_SELECTOR = re.compile(r"([A-Za-z][A-Za-z0-9]{0,20})?([.#])([A-Za-z_\-][\w\-]{0,80})")
_PLAIN_FOOTER_CHARS = 200
_MAX_SHEET_CHARS = 500_000
_Selector = tuple[str | None, str, str]


class Look:
    """How the elements of one page look."""

    def __init__(self, root: Any) -> None:
        self._hidden: set[_Selector] = set()
        self._struck: set[_Selector] = set()
        for sheet in root.iter("style"):
            for selectors, declarations in _rules((sheet.text or "")[:_MAX_SHEET_CHARS]):
                for found, pattern in ((self._hidden, _HIDDEN), (self._struck, _STRUCK)):
                    if pattern.search(declarations):
                        found.update(_plain_selectors(selectors))
        self._has_main = any(_is_content_root(element) for element in root.iter("main", "div", "article", "section"))

    def is_dropped(self, element: Any) -> bool:
        """Whether an element is no text at all: a script, a style sheet, a comment."""
        return not isinstance(element.tag, str) or element.tag in _DROPPED

    def is_hidden(self, element: Any) -> bool:
        """Whether a reader cannot see it."""
        if element.get("hidden") is not None or (element.get("aria-hidden") or "").lower() == "true":
            return True
        return bool(_HIDDEN.search(element.get("style") or "")) or self._matches(element, self._hidden)

    def is_struck(self, element: Any) -> bool:
        """Whether a line goes through it."""
        if element.tag in _STRUCK_TAGS or _STRUCK.search(element.get("style") or ""):
            return True
        return self._matches(element, self._struck)

    def is_navigation(self, element: Any, *, inside_content: bool) -> bool:
        """Whether it leads around the site rather than saying what the page says.

        inside_content: it is in an article or the page's main part, where headers, footers and asides are content.
        """
        if element.tag == "nav":
            return True
        if (element.get("role") or "").lower() in _NAVIGATION_ROLES:
            return _holds_no_content(element)
        if inside_content:
            return False
        if element.tag in _NAVIGATION_TAGS:
            return _holds_no_content(element) and not _is_plain_footer(element)
        if self._has_main and element.tag in {"ul", "ol"}:
            return True
        if element.tag in _NAMED_TAGS:
            name = f"{element.get('class') or ''} {element.get('id') or ''}"[:400]
            words = {word.lower() for word in _WORD.findall(name)}
            if "cookie" in words or (self._has_main and not words.isdisjoint(_NAVIGATION_WORDS)):
                return _holds_no_content(element)
        return False

    @staticmethod
    def is_content(element: Any) -> bool:
        """Whether all inside it belongs to what the page says."""
        return element.tag in _CONTENT_TAGS or _is_content_root(element)

    @staticmethod
    def _matches(element: Any, selectors: set[_Selector]) -> bool:
        if not selectors:
            return False
        names = [(".", name) for name in (element.get("class") or "").split()[:40]]
        names.append(("#", element.get("id") or ""))
        return any((tag, *name) in selectors for name in names for tag in (None, element.tag))


def _is_content_root(element: Any) -> bool:
    if element.tag == "main" or (element.get("role") or "").lower() == "main":
        return True
    return (element.get("id") or "").lower() in _CONTENT_NAMES


def _holds_no_content(element: Any) -> bool:
    return next(element.iter("main", "article", "h1"), None) is None


def _is_plain_footer(element: Any) -> bool:
    """A line below the page that links nowhere: when it was reviewed, whom to ask."""
    if element.tag != "footer" or next(element.iter("a", "nav", "form"), None) is not None:
        return False
    return sum(len(text.strip()) for text in element.itertext()) <= _PLAIN_FOOTER_CHARS


def _rules(sheet: str) -> Iterator[tuple[str, str]]:
    """Selectors and declarations of the rules at the top level of a style sheet."""
    depth = start = 0
    selectors = ""
    for brace in _BRACES.finditer(sheet):
        if brace.group() == "{":
            if depth == 0:
                selectors = sheet[start : brace.start()].strip()
            depth += 1
        else:
            depth = max(0, depth - 1)
            if depth == 0:
                yield selectors, sheet[start : brace.start()]
        start = brace.end()


def _plain_selectors(selectors: str) -> Iterator[_Selector]:
    for selector in selectors.split(","):
        found = _SELECTOR.fullmatch(selector.strip())
        if found:
            yield (found.group(1).lower() if found.group(1) else None), found.group(2), found.group(3)
