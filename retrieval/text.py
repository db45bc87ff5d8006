"""What of a chunk is embedded and indexed. Ingest, rebuild and benchmarks all call this one function."""

from __future__ import annotations


def indexed_text(title: str | None, heading: str | None, text: str) -> str:
    """Text that both vectors of a chunk are made of: its place in the document, then the passage.

    title: the document's title, or its file name where it has none. heading: 'A > B'. A chunk that says "15 days" is
    found by "annual leave" only when its heading goes with it.
    """
    place = [part.strip() for part in (title, heading) if part and part.strip()]
    if len(place) == 2 and place[1].startswith(place[0]):
        place = place[1:]
    return "\n".join([*place, text.strip()])
