"""Which candidate answers the question: features of each, and a linear model over them.

The model's weights are data (`weights.json`), fitted by `generation.evidence.fit` and by `tsumugi calibrate`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.types import Passage
from generation.evidence.candidates import Candidate, candidates_of
from generation.evidence.question import Question, Wanted, identifiers_in, numbers_in, read_question
from generation.evidence.ranges import fit, measures_in, ranges_in
from generation.evidence.units import Unit, UnitKind, units_of
from generation.evidence.values import holds
from core.text_folding import fold as normalise
from retrieval.lexical import tokenize

FEATURES = (
    "all_cover", "unit_cover", "near_cover", "beside_cover", "rare_missing", "identifiers_here", "identifiers_near", "identifiers_missing",
    "numbers_here", "numbers_missing", "rank", "score", "wanted_here", "wanted_missing", "length", "sentence_end", "is_heading",
    "is_row", "is_item", "answers_question_above", "cell", "cell_header_cover", "cell_value_cover", "cell_wanted", "cell_wanted_missing", "cell_label",
    "whole_row_cells", "key_cover", "extra_identifiers", "document_cover", "is_question", "yes_no_sentence", "long_unit", "best_in_passage", "header_best", "passage_cover", "around_cover", "clause", "clause_cover", "clause_wanted", "clause_lost", "range_fit", "other_document", "row_range_missing",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Text:
    folded: str
    terms: frozenset[str]
    """Those of the question's that stand in it."""
    size: int
    """How many terms of more than one character it has."""
    identifiers: frozenset[str]
    numbers: frozenset[str]


_NOTHING = _Text("", frozenset(), 0, frozenset(), frozenset())


class Pool:
    """Units of the passages of one question with their texts read once."""

    def __init__(self, question: Question, passages: Sequence[Passage]) -> None:
        self.question = question
        self.passages = passages
        self.units = units_of(passages)
        cache: dict[str, _Text] = {"": _NOTHING}
        terms = question.terms.keys()

        def read(text: str) -> _Text:
            if text not in cache:
                folded = normalise(text)
                own = frozenset(tokenize(text))
                size = sum(len(term) > 1 for term in own)
                cache[text] = _Text(folded, own.intersection(terms), size, identifiers_in(folded), numbers_in(folded))
            return cache[text]

        self._read = read
        self._texts = [read(unit.text) for unit in self.units]
        self._heading = [read(unit.heading) for unit in self.units]
        self._lead = [read(unit.lead) for unit in self.units]
        self._before = [read(unit.before) for unit in self.units]
        self._after = [read(unit.after) for unit in self.units]
        self._passage = [read(f"{p.heading or ''}\n{p.text}") for p in passages]
        self._file = [read(_name(passages[unit.passage].filename)) for unit in self.units]
        self._files = list(dict.fromkeys(self._file))
        self._cells = [[(read(cell.header), read(cell.value)) for cell in unit.cells] for unit in self.units]
        self.weights = self._idf()
        self.total = sum(self.weights.values()) or 1.0
        self.candidates = list(candidates_of(self.units, [self._hits(at) for at in range(len(self.units))]))

    def _idf(self) -> dict[str, float]:
        counts: Counter[str] = Counter()
        for text, heading, file in zip(self._texts, self._heading, self._file, strict=True):
            counts.update(text.terms | heading.terms | file.terms)
        n = len(self.units) + 1
        return {
            term: weight * math.log((n + 1) / (counts[term] + 0.5)) for term, weight in self.question.terms.items()
        }

    def share(self, terms: frozenset[str]) -> float:
        """Share of the question's weight that some terms cover."""
        return sum(self.weights[term] for term in terms) / self.total

    def _hits(self, at: int) -> list[bool]:
        """For each cell whether its value stands in the question: what names the row."""
        hits = []
        for _, value in self._cells[at]:
            strong = bool(value.identifiers & self.question.identifiers) or bool(
                value.numbers and value.numbers <= self.question.numbers
            )
            own = sum(self.question.terms[term] for term in value.terms)
            hits.append(strong or (bool(value.terms) and own >= 0.6 * min(max(value.size, 1), 3)))
        return hits

    def features(self) -> NDArray[np.float64]:
        """(candidates, FEATURES)."""
        shares = [self._unit_shares(at) for at in range(len(self.units))]
        best = [0.0] * len(self.passages)
        for unit, share in zip(self.units, shares, strict=True):
            best[unit.passage] = max(best[unit.passage], share["near_cover"])
        measures = measures_in(self.question.folded)
        ranges = [fit(measures, ranges_in(t.folded)) if measures else 0.0 for t in self._texts]
        some_range = max(ranges, default=0.0) > 0
        top_score = max((passage.score for passage in self.passages), default=1.0) or 1.0
        place = {id(unit): at for at, unit in enumerate(self.units)}
        rows = []
        for candidate in self.candidates:
            at = place[id(candidate.unit)]
            values = dict(shares[at])
            passage = self.passages[candidate.unit.passage]
            values["rank"] = 1.0 / (1 + candidate.unit.passage)
            values["score"] = passage.score / top_score
            values["best_in_passage"] = float(values["near_cover"] >= best[candidate.unit.passage] - 1e-9)
            values["range_fit"] = ranges[at]
            values["row_range_missing"] = float(some_range and ranges[at] <= 0)
            values |= self._cell_values(candidate, at)
            if candidate.clause is not None:
                values |= self._clause_values(candidate, values)
            rows.append([values.get(name, 0.0) for name in FEATURES])
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(FEATURES))

    def _unit_shares(self, at: int) -> dict[str, float]:
        question, unit, text = self.question, self.units[at], self._texts[at]
        heading, lead, file, before = self._heading[at], self._lead[at], self._file[at], self._before[at]
        near = text.terms | heading.terms | lead.terms
        everything = near | file.terms | before.terms
        passage = self._passage[unit.passage]
        named = {term for file in self._files for term in file.terms}
        missing = [weight for term, weight in self.weights.items() if term not in everything]
        here = question.identifiers & text.identifiers
        beside = question.identifiers & (heading.identifiers | lead.identifiers | file.identifiers)
        asked = len(question.identifiers) or 1
        numbers = len(question.numbers) or 1
        all_numbers = text.numbers | heading.numbers | lead.numbers | file.numbers
        wanted = [kind for kind in question.wanted if kind not in {Wanted.YES_NO}]
        held = [kind for kind in wanted if holds(kind, text.folded)]
        return {
            "all_cover": self.share(everything),
            "unit_cover": self.share(text.terms),
            "near_cover": self.share(near),
            "beside_cover": self.share(near | file.terms),
            "passage_cover": self.share(passage.terms | file.terms),
            "around_cover": self.share(near | before.terms | self._after[at].terms),
            "other_document": self.share(frozenset(named - everything - passage.terms)),
            "document_cover": self.share(file.terms),
            "rare_missing": max(missing, default=0.0) / self.total,
            "identifiers_here": len(here) / asked if question.identifiers else 0.0,
            "identifiers_near": len(beside - here) / asked if question.identifiers else 0.0,
            "identifiers_missing": len(question.identifiers - here - beside) / asked if question.identifiers else 0.0,
            "extra_identifiers": float(bool(text.identifiers - question.identifiers)) if question.identifiers else 0.0,
            "numbers_here": len(question.numbers & text.numbers) / numbers if question.numbers else 0.0,
            "numbers_missing": len(question.numbers - all_numbers) / numbers if question.numbers else 0.0,
            "wanted_here": len(held) / len(wanted) if wanted else 0.0,
            "wanted_missing": float(bool(wanted) and not held),
            "length": math.log1p(len(unit.text)) / 6,
            "long_unit": float(len(unit.text) > 160),
            "sentence_end": float(unit.text.rstrip().endswith(("。", ".", "！", "!"))),
            "is_heading": float(unit.kind is UnitKind.HEADING),
            "is_row": float(unit.kind is UnitKind.ROW),
            "is_item": float(unit.kind is UnitKind.ITEM),
            "is_question": float(unit.text.rstrip().endswith(("?", "？", "ですか。", "ますか。", "か"))),
            "answers_question_above": self.share(lead.terms),
            "yes_no_sentence": float(Wanted.YES_NO in question.wanted and unit.kind is not UnitKind.ROW),
        }

    def _clause_values(self, candidate: Candidate, whole: Mapping[str, float]) -> dict[str, float]:
        assert candidate.clause is not None
        part = self._read(candidate.unit.text[slice(*candidate.clause)])
        wanted = [kind for kind in self.question.wanted if kind is not Wanted.YES_NO]
        held = [kind for kind in wanted if holds(kind, part.folded)]
        cover = self.share(part.terms)
        return {
            "clause": 1.0,
            "clause_cover": cover,
            "clause_lost": max(0.0, whole["unit_cover"] - cover),
            "clause_wanted": len(held) / len(wanted) if wanted else 0.0,
            "length": math.log1p(len(part.folded)) / 6,
        }

    def _cell_values(self, candidate: Candidate, at: int) -> dict[str, float]:
        unit, question = candidate.unit, self.question
        if candidate.cell is None:
            return {"whole_row_cells": min(len(unit.cells), 12) / 12 if unit.kind is UnitKind.ROW else 0.0}
        header, value = self._cells[at][candidate.cell]
        wanted = [kind for kind in question.wanted if kind is not Wanted.YES_NO]
        both = f"{value.folded} {header.folded}"
        held = [kind for kind in wanted if holds(kind, value.folded) or holds(kind, both)]
        others: set[str] = set()
        for key in candidate.keys:
            others |= self._cells[at][key][1].terms
        covers = [self.share(h.terms) for h, _ in self._cells[at]]
        own = self.share(header.terms)
        return {
            "cell": 1.0,
            "cell_header_cover": own,
            "header_best": float(own > 0 and own >= max(covers) - 1e-9),
            "cell_value_cover": self.share(value.terms),
            "cell_wanted": len(held) / len(wanted) if wanted else 0.0,
            "cell_wanted_missing": float(bool(wanted) and not held),
            "cell_label": float(candidate.cell == 0),
            "key_cover": self.share(frozenset(others)),
        }


def _name(filename: str) -> str:
    stem = filename.rsplit(".", 1)[0]
    return stem.replace("_", " ")


def pool_of(question: str, passages: Sequence[Passage]) -> Pool:
    """Read a question and its passages."""
    return Pool(read_question(question), passages)


def scores(features: NDArray[np.float64], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """Linear scores, (candidates,)."""
    total: NDArray[np.float64] = features @ np.array([weights.get(name, 0.0) for name in FEATURES])
    return total
