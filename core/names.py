"""Names that people give: one spelling of each. macOS takes voiced kana apart (NFD: は and a mark), others do not."""

from __future__ import annotations

import unicodedata


def one_spelling(name: str) -> str:
    """The name as it is stored and looked for: NFC."""
    return unicodedata.normalize("NFC", name)
