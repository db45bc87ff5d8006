"""Which language an answer is written in, told apart further than searching needs: by script, then by small words.

A base that drifts answers in a language that it was never asked in; Korean has no kana and French has Latin letters, so
the two-way rule of `core.language` sees neither.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_WORD = re.compile(r"[^\W\d_]+")
_SCRIPTS = {
    "HANGUL": "ko", "CYRILLIC": "ru", "ARABIC": "ar", "THAI": "th", "HEBREW": "he", "GREEK": "el", "DEVANAGARI": "hi",
    "BENGALI": "bn", "TAMIL": "ta", "GEORGIAN": "ka", "ARMENIAN": "hy", "KHMER": "km", "LAO": "lo", "MYANMAR": "my",
}  # fmt: skip
"""{first word of a letter's Unicode name: language}; scripts of several languages stand for the largest."""
_KANA = ("HIRAGANA", "KATAKANA")
_SMALL_WORDS = {
    "en": "the of and to in is it was are on for with at by from this that be has have not or an its you your please "
    "could find there which as we will can",
    "fr": "le la les des du de et est une dans pour par sur avec ce cette que qui il elle sont au aux ne pas vous nous "
    "c'est selon à été plus",
    "de": "der die das und ist ein eine nicht von zu den mit für auf dem des im sich wird sind bei nach es auch wie",
    "es": "el los las una es y en por para con del al se su que no lo como más está son según fue",
    "it": "il lo gli una è e di che per con del della nel non si sono da alla dei questo secondo",
    "pt": "o os as uma é e do da dos das em no na para com não por que se um são ao segundo",
    "nl": "het een en van is dat niet op te zijn voor met aan door bij volgens deze dit naar",
}
_OF_WORD: dict[str, tuple[str, ...]] = {}
for _language, _words in _SMALL_WORDS.items():
    for _one in _words.split():
        _OF_WORD[_one] = (*_OF_WORD.get(_one, ()), _language)
_CHINESE = frozenset("的是在了这个们说对没为与从还会个吗呢该请")
"""Characters that running Chinese cannot do without, and Japanese without kana never writes."""
_FEWEST_WORDS = 2
"""Small words of one language that tell it; fewer are a name or a loan."""


def spoken_language(text: str) -> str | None:
    """Code of the language that most of a text is in, or None where it is too short or bare to tell.

    English, French, German, Spanish, Italian, Portuguese and Dutch are told apart by their small words, Japanese and
    Chinese by kana, other scripts by their letters. Numbers, units and names alone are of no language.
    """
    folded = unicodedata.normalize("NFKC", text)
    scripts: Counter[str] = Counter()
    for char in folded:
        if char.isalpha():
            scripts[unicodedata.name(char, "OTHER").partition(" ")[0]] += 1
    kana = sum(scripts[name] for name in _KANA)
    han = scripts["CJK"]
    other = max((name for name in scripts if name in _SCRIPTS), key=lambda name: scripts[name], default=None)
    if other is not None and scripts[other] > kana + han and 3 * scripts[other] >= scripts["LATIN"]:
        return _SCRIPTS[other]
    if kana + han and 3 * (kana + han) >= scripts["LATIN"]:
        if kana:
            return "ja"
        return "zh" if any(char in _CHINESE for char in folded) else None
    return _by_small_words(folded.casefold().replace("\u2019", "'"))


def _by_small_words(text: str) -> str | None:
    counts: Counter[str] = Counter()
    words = _WORD.findall(text)
    for word in words:
        counts.update(_OF_WORD.get(word, ()))
    best = counts.most_common(2)
    if not best or best[0][1] < _FEWEST_WORDS or (len(best) == 2 and best[0][1] == best[1][1]):
        return None
    return best[0][0]
