"""Measured facts about an extraction, kept with the document: they explain a bad answer before anyone guesses.

`garbled` is the share of visible characters that no reader writes: replacement marks, private-use code points and
unassigned ones. Above 0.3 the text is noise, and the document fails rather than answering from it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from core.errors import ExtractionFailed
from core.types import ExtractedDocument

_MAX_GARBLED = 0.3
_NOISE = frozenset({"Co", "Cn", "Cs"})


def garbled_share(text: str) -> float:
    """Share of visible characters that are replacement marks, private-use or unassigned; 0 for an empty text."""
    visible = bad = 0
    for character in text:
        if character.isspace():
            continue
        visible += 1
        if character == "\ufffd" or (character > "\u0377" and unicodedata.category(character) in _NOISE):
            bad += 1
    return bad / visible if visible else 0.0


def with_quality(document: ExtractedDocument) -> ExtractedDocument:
    """Add the facts that hold for every format, and refuse a text that is empty or noise.

    Raises:
        ExtractionFailed: `no_text` or `garbled_text`.
    """
    visible = sum(not character.isspace() for character in document.text)
    if visible == 0:
        raise ExtractionFailed("there is no text in the document", code="no_text")
    garbled = garbled_share(document.text)
    if garbled > _MAX_GARBLED:
        raise ExtractionFailed(
            f"{garbled:.0%} of the extracted characters are unreadable: the file's fonts do not say what they show",
            code="garbled_text",
        )
    facts: Mapping[str, Any] = {
        "chars": len(document.text),
        "visible_chars": visible,
        "blocks": len(document.blocks),
        "replacement_share": round(document.text.count("\ufffd") / visible, 5),
        "garbled_share": round(garbled, 5),
        **document.quality,
    }
    return replace(document, quality={**facts, "score": quality_score(facts, document.page_count)})


def quality_score(facts: Mapping[str, Any], page_count: int | None) -> float:
    """How much of the document arrived, 0 to 1: share of readable characters, of pages read, of attachments read.

    A page without text may be an empty one: it counts half; one that failed, or is a picture that was not read, counts
    whole. Pages read by OCR count as far as the engine was sure of them.
    """
    score = 1.0 - float(facts["garbled_share"])
    if page_count:
        not_read = set(facts.get("pages_not_read") or ())
        lost = len(facts.get("pages_failed") or ()) + len(facts.get("sheets_failed") or ()) + len(not_read)
        empty = len(set(facts.get("pages_without_text") or ()) - not_read)
        unsure = len(facts.get("pages_by_ocr") or ()) * (1.0 - float(facts.get("ocr_confidence") or 1.0))
        score *= max(0.0, 1.0 - (lost + 0.5 * empty + unsure) / page_count)
    attachments = facts.get("attachments") or ()
    if attachments:
        lost = sum(item["error"] not in {None, "no_text", "empty_file"} for item in attachments)
        score *= 1.0 - lost / (len(attachments) + 1)
    return round(score, 4)
