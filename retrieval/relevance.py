"""Relevance of a passage to a query, in [0, 1], and the threshold under which an answer is refused.

Nothing here depends on the collection: not on its size, and not on its document frequencies, which say little when
there are ten documents. The parameters come from `retrieval.calibrate`, never from this file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from sqlalchemy import select

from core.database import Database, ReadSession
from core.tables.operations import Calibration
from core.types import Language
from retrieval.coverage import Coverage
from retrieval.fusion import Fusion, FusionMethod

SHIPPED = "minilm-lexical.json"
SHIPPED_FOR = "all-MiniLM-L6-v2"
"""Embedder that the shipped calibration was made with; cosines of others mean other things."""
FEATURES = ("bias", "cosine", "content", "characters")


@dataclass(frozen=True, slots=True)
class RelevanceModel:
    """A logistic model per language, with its refusal threshold."""

    weights: Mapping[Language, tuple[float, ...]]
    """In the order of FEATURES."""
    thresholds: Mapping[Language, float]
    fusions: Mapping[Language, Fusion] = field(default_factory=dict)
    """How the arms are fused, where a calibration has chosen it."""

    def relevance(self, language: Language, cosine: float | None, cover: Coverage) -> float:
        """Calibrated probability that a passage so related to the query helps to answer it."""
        values = features(cosine, cover)
        total = sum(w * x for w, x in zip(self.weights[_known(language)], values, strict=True))
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, total))))

    def fusion(self, language: Language) -> Fusion | None:
        """Fusion chosen for queries in `language`; None: the default."""
        return self.fusions.get(_known(language))

    def threshold(self, language: Language) -> float:
        """Refusal threshold for queries in `language`."""
        return self.thresholds[_known(language)]


def features(cosine: float | None, cover: Coverage) -> tuple[float, ...]:
    """Numbers the model weighs, in the order of FEATURES; a cosine is None where the embedder has no say."""
    return (1.0, max(cosine or 0.0, 0.0), cover.content, cover.characters)


def parse_model(parameters: Mapping[str, Any]) -> RelevanceModel:
    """Model from the stored form: {language: {"weights": {feature: w}, "threshold": t, "fusion"?: {...}}}."""
    weights = {Language(key): tuple(float(entry["weights"][f]) for f in FEATURES) for key, entry in parameters.items()}
    thresholds = {Language(key): float(entry["threshold"]) for key, entry in parameters.items()}
    fusions = {
        Language(key): Fusion(FusionMethod(entry["fusion"]["method"]), float(entry["fusion"]["dense_weight"]))
        for key, entry in parameters.items()
        if "fusion" in entry
    }
    return RelevanceModel(weights, thresholds, fusions)


def shipped_parameters() -> dict[str, Any]:
    """Calibration that comes with the embedded default."""
    text = resources.files("retrieval.calibration").joinpath(SHIPPED).read_text(encoding="utf-8")
    parameters: dict[str, Any] = json.loads(text)["parameters"]
    return parameters


def newest_calibration(session: ReadSession, index_version: str) -> str | None:
    """Id of the calibration in force for an index version; None: the shipped one."""
    newest = select(Calibration.id).where(Calibration.index_version == index_version)
    return session.scalars(newest.order_by(Calibration.created_at.desc(), Calibration.id).limit(1)).first()


def load_parameters(db: Database, index_version: str) -> dict[str, Any]:
    """Stored form of the newest calibration of this index version, else of the shipped one."""
    newest = select(Calibration).where(Calibration.index_version == index_version)
    with db.read() as session:
        row = session.scalars(newest.order_by(Calibration.created_at.desc(), Calibration.id).limit(1)).first()
    return dict(row.parameters) if row is not None else shipped_parameters()


def load_model(db: Database, index_version: str) -> RelevanceModel:
    """Model in force for an index version."""
    return parse_model(load_parameters(db, index_version))


def _known(language: Language) -> Language:
    return Language.JAPANESE if language is Language.JAPANESE else Language.ENGLISH
