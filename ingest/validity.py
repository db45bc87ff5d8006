"""When a document holds: what a person says, and what was found where nobody said anything.

Who gives one of the two days speaks for both: the other is then open. What was given stays when the file is replaced,
as groups and metadata do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from core.editions import DocumentEdition, facts_of
from core.tables.documents import Document
from core.tables.jobs import Job

GIVEN, FOUND = "given", "found"
_MAX_FAMILY_CHARS = 300


@dataclass(frozen=True, slots=True)
class Validity:
    """What an upload says. None: nothing about it."""

    valid_from: date | None = None
    valid_until: date | None = None
    supersedes: str | None = None

    def as_json(self) -> dict[str, str]:
        """For a job's arguments; what is not said is left out."""
        days = {"valid_from": self.valid_from, "valid_until": self.valid_until}
        said = {name: day.isoformat() for name, day in days.items() if day is not None}
        return said | ({"supersedes": self.supersedes} if self.supersedes else {})


NOTHING_SAID = Validity()


def validity_in(job: Job | None) -> Validity:
    """What the upload behind a job said."""
    said: Mapping[str, Any] = (job.arguments.get("validity") if job is not None else None) or {}
    days = {name: date.fromisoformat(said[name]) if name in said else None for name in ("valid_from", "valid_until")}
    return Validity(**days, supersedes=said.get("supersedes"))


def give_validity(document: Document, said: Validity) -> bool:
    """Put in force what a person says; whether that changed anything."""
    before = (document.valid_from, document.valid_until, document.validity_source, document.supersedes)
    if said.valid_from is not None or said.valid_until is not None:
        document.valid_from, document.valid_until = said.valid_from, said.valid_until
        document.validity_source = GIVEN
    if said.supersedes is not None:
        document.supersedes = said.supersedes
    return before != (document.valid_from, document.valid_until, document.validity_source, document.supersedes)


def refresh_edition(document: Document, found: DocumentEdition, said: Validity | None = None) -> None:
    """Note what was found in a document's text (`ingest.editions.find_edition`), beside what a person has said.

    said: what came with the upload that is being put in force. To be called inside the transaction that does so, or by
    whoever reads a document again.
    """
    days = {"valid_from": found.valid_from, "valid_until": found.valid_until}
    document.edition = facts_of(found) | {name: day.isoformat() for name, day in days.items() if day is not None}
    document.edition_family = found.family[:_MAX_FAMILY_CHARS] if found.family else None
    if said is not None:
        give_validity(document, said)
    if document.validity_source != GIVEN:
        take_found(document)


def take_found(document: Document) -> None:
    """Put the days in force that were found, in place of what a person said."""
    facts = document.edition or {}
    document.valid_from, document.valid_until = (
        date.fromisoformat(facts[name]) if name in facts else None for name in ("valid_from", "valid_until")
    )
    document.validity_source = FOUND if document.valid_from or document.valid_until else None
