"""Which weights of the evidence stage answer a tenant's questions."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from sqlalchemy import select

from core.database import ReadSession
from core.tables.operations import EvidenceCalibration
from generation.evidence.parameters import EvidenceParameters, parse_parameters, shipped_parameters

_KEPT = 256
_parsed: OrderedDict[str, EvidenceParameters] = OrderedDict()
"""{id of a calibration: its weights}: rows are never changed."""
_lock = Lock()


def parameters_in_force(session: ReadSession, tenant_id: str) -> EvidenceParameters:
    """The newest weights that were fitted to a tenant's own questions, else the shipped ones."""
    newest = (
        select(EvidenceCalibration.id)
        .where(EvidenceCalibration.tenant_id == tenant_id)
        .order_by(EvidenceCalibration.created_at.desc(), EvidenceCalibration.id.desc())
        .limit(1)
    )
    found = session.scalar(newest)
    return shipped_parameters() if found is None else _stored(found, session)


def _stored(key: str, session: ReadSession) -> EvidenceParameters:
    with _lock:
        if key in _parsed:
            _parsed.move_to_end(key)
            return _parsed[key]
    row = session.get(EvidenceCalibration, key)
    if row is None:  # dropped meanwhile
        return shipped_parameters()
    parameters = parse_parameters(row.parameters)
    with _lock:
        _parsed[key] = parameters
        if len(_parsed) > _KEPT:
            _parsed.popitem(last=False)
    return parameters
