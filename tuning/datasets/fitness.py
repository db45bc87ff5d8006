"""Whether a set can teach what the gate asks: to answer from passages and to cite them. Known before any compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from generation.citations import MARKER, find_support
from generation.prompt import is_not_found
from tuning.render import sentences

_LOOKED_AT = 100
"""Grounded rows without citation marks that are searched for a sentence which could carry one: enough to tell."""


def fitness(contents: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Counts for a set's report: `grounded_count`, rows with passages; `cited_count`, those of them that cite, or that
    preparing can add a citation to because a passage carries a sentence of the answer.
    """
    grounded = cited = looked = 0
    for content in contents:
        passages = content.get("passages") or []
        if not passages:
            continue
        grounded += 1
        answer = str(content.get("chosen") or content["messages"][-1]["content"])
        if MARKER.search(answer) or is_not_found(answer):
            cited += 1
        elif looked < _LOOKED_AT:
            looked += 1
            claims = sentences(answer)
            cited += any(find_support(claim, passage["text"])[2] for passage in passages for claim in claims)
    return {"grounded_count": grounded, "cited_count": cited}


def unfit(sets: Sequence[tuple[str, int, Mapping[str, Any]]]) -> list[dict[str, str]]:
    """What makes the gate reject a version trained on these sets together: [{code, detail}].

    sets: (format, rows, report). Sets from before these counts were kept are not judged.
    """
    rows = sum(count for _, count, _ in sets)
    reports = [report for _, count, report in sets if count]
    if not rows or any("grounded_count" not in report for report in reports):
        return []
    grounded = sum(int(report["grounded_count"]) for report in reports)
    if not grounded:
        return [
            {
                "code": "no_passages",
                "detail": f"none of {rows} rows has passages: nothing in them teaches to answer from passages, and the"
                " gate asks for that; give rows their `passages`, or train beside a set that has them",
            }
        ]
    if all("cited_count" in report for report in reports) and not any(int(r["cited_count"]) for r in reports):
        return [
            {
                "code": "no_citations",
                "detail": f"none of {grounded} rows with passages cites one, and no passage carries a sentence of its"
                " answer: nothing teaches to cite, and the gate asks for it; write [1] after what passage 1 says",
            }
        ]
    return []
