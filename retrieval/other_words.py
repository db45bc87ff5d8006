"""What a question is widened by: the tenant's dictionary, the general one, and what misspelt words are meant for."""

from __future__ import annotations

from threading import Lock
from time import monotonic

from core.database import Database
from core.tables.dictionaries import TenantDictionary
from retrieval.dictionary import Dictionary, Expansion, as_groups, expand, general
from retrieval.spelling import Vocabulary

_REREAD_S = 0.5
_MAX_TENANTS = 256


class OtherWords:
    """Other words for those of a question, by tenant. Thread-safe; sees a changed dictionary within half a second."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._vocabulary = Vocabulary(db)
        self._lock = Lock()
        self._own: dict[str, tuple[float, object, Dictionary]] = {}

    def of(self, tenant_id: str, question: str) -> list[Expansion]:
        """Expansions of a question: the tenant's own words before general ones, then corrections of unknown words."""
        found = expand(question, (self.dictionary(tenant_id), general()))
        known = {word for one in found for word in one.phrase.split(" ")}
        return [*found, *(one for one in self._vocabulary.corrections(tenant_id, question) if one.phrase not in known)]

    def dictionary(self, tenant_id: str) -> Dictionary:
        """The tenant's own."""
        now = monotonic()
        with self._lock:
            kept = self._own.get(tenant_id)
        if kept is not None and now - kept[0] < _REREAD_S:
            return kept[2]
        with self._db.read() as session:
            row = session.get(TenantDictionary, tenant_id)
            changed_at = row.updated_at if row is not None else None
            if kept is not None and kept[1] == changed_at:
                own = kept[2]
            else:
                own = Dictionary(as_groups(row.entries) if row is not None else ())
        with self._lock:
            if len(self._own) >= _MAX_TENANTS:
                self._own.clear()
            self._own[tenant_id] = (now, changed_at, own)
        return own
