"""Where a link leads, written beside its text: `申請書 (https://forms.example/a)`, as a printed page would say it."""

from __future__ import annotations

_SCHEMES = ("http://", "https://", "ftp://", "file://", "mailto:", "tel:", "\\\\")
_FILES = (
    ".pdf", ".doc", ".docx", ".docm", ".dotx", ".xls", ".xlsx", ".xlsm", ".xltx", ".ppt", ".pptx", ".odt", ".ods",
    ".odp", ".csv", ".zip", ".msg", ".eml", ".vsdx",
)  # fmt: skip
_MAX_TARGET_CHARS = 300
"""A longer address is for a machine: a tracking link, an embedded picture."""


def linked(text: str, target: str | None) -> str:
    """The text of a link with its target in brackets, unless the text says it or a reader could not use it.

    Relative addresses are kept where they name a file; menus and anchors of a page are not.
    """
    target = (target or "").strip()
    shown = " ".join(text.split())
    lower = target.lower()
    if not shown or not target or len(target) > _MAX_TARGET_CHARS or any(c.isspace() for c in target):
        return text
    if not lower.startswith(_SCHEMES) and (":" in target or not lower.partition("?")[0].endswith(_FILES)):
        return text
    plain = target
    if lower.startswith(("mailto:", "tel:")):
        plain = target.partition(":")[2].partition("?")[0]
    if not plain or _bare(plain) in _bare(shown):
        return text
    ending = text[len(text.rstrip()) :]
    return f"{text.rstrip()} ({plain}){ending}"


def _bare(address: str) -> str:
    """Without what people leave out when they write an address."""
    bare = address.lower()
    for start in ("http://", "https://", "www."):
        bare = bare.removeprefix(start)
    return bare.rstrip("/").replace("-", "") if bare[:1] in "+0123456789" else bare.rstrip("/")
