"""Which language a text is in, as far as the service tells them apart. Questions and passages use the same rule."""

from __future__ import annotations

import re

from core.types import Language

_KANA = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
_HAN = re.compile(r"[\u3400-\u9fff々]")
_LATIN = re.compile(r"[A-Za-z]")


def language_of(text: str) -> Language:
    """Language of a question or passage: any kana or Han is Japanese; otherwise Latin letters are English.

    A Japanese question about `PPR-9087` is Japanese: one kana or Han character decides.
    """
    if _KANA.search(text) or _HAN.search(text):
        return Language.JAPANESE
    return Language.ENGLISH if _LATIN.search(text) else Language.OTHER


def passage_language(text: str) -> Language:
    """Language that most of a passage is in: a Japanese name in an English paragraph does not make it Japanese.

    A Japanese character says about as much as three Latin letters, so a fourth of them is enough.
    """
    if language_of(text) is not Language.JAPANESE:
        return language_of(text)
    cjk = len(_KANA.findall(text)) + len(_HAN.findall(text))
    return Language.JAPANESE if 3 * cjk >= len(_LATIN.findall(text)) else Language.ENGLISH


def is_cjk(character: str) -> bool:
    """Whether a character is kana or Han: about one token each in most tokenizers."""
    return bool(_KANA.match(character) or _HAN.match(character))
