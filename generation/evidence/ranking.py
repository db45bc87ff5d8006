"""Which candidate answers the question: features of each, and a linear model over them.

The model's weights are data (`parameters.json`), fitted by `tsumugi calibrate`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from core.editions import DocumentEdition, EditionFit, edition_fit
from core.language import passage_language
from core.question_edition import question_edition
from core.text_folding import fold
from core.types import Language, Passage
from generation.evidence.candidates import Candidate, Form, candidates_of, shown
from generation.evidence.question import Question, Wanted, identifiers_in, numbers_in, read_question
from generation.evidence.ranges import fit, measures_in, ranges_in
from generation.evidence.units import Unit, UnitKind, units_of
from generation.evidence.values import VERDICT, count, holds
from generation.orders import orders_in
from retrieval.lexical import tokenize

FEATURES = (
    # where it stands
    "all_cover", "near_cover", "beside_cover", "around_cover", "passage_cover", "document_cover", "heading_cover",
    "other_document", "rare_missing", "identifiers_near", "identifiers_missing", "numbers_missing", "rank", "score",
    "best_in_passage", "is_heading", "is_row", "is_item", "is_question", "answers_question_above", "range_fit",
    "range_missed", "edition_named", "edition_differs", "edition_newest", "edition_older", "edition_over",
    # what it says
    "text_cover", "wanted_here", "wanted_missing", "identifiers_here", "identifiers_other", "numbers_here",
    "length", "long", "sentence_end", "many_values", "verdict",
    # how much of it
    "clause", "clause_lost", "pair", "pair_gain", "block", "block_gain", "row_cells", "cell", "cell_header",
    "cell_header_best", "cell_header_number", "cell_value", "cell_wanted", "cell_unwanted", "cell_first",
    "cell_keys", "cell_named", "cell_header_other_number", "rarest_here", "rare_two_here", "list_block",
    "list_short", "row_whole_of_asked",
    # what it means
    "foreign", "similar", "similar_foreign", "similar_best", "not_compared",
)  # fmt: skip
_LONG_CHARS = 160
_COMPARED = 64
"""Candidates of each language side whose meaning is compared with the question's."""

Siblings = Mapping[str, Sequence[DocumentEdition]]
"""{document id: other editions of its family}."""
Similarity = Callable[[str, Sequence[str]], Sequence[float]]
"""(question, texts) -> cosine of each, across languages."""


@dataclass(frozen=True, slots=True)
class _Text:
    folded: str
    terms: frozenset[str]
    """Those of the question's that stand in it."""
    size: int
    """How many terms of more than one character it has."""
    identifiers: frozenset[str]
    numbers: frozenset[str]


class Pool:
    """Units of the passages of one question, their texts read once, and the candidates they make."""

    def __init__(
        self,
        question: Question,
        passages: Sequence[Passage],
        today: date,
        siblings: Siblings | None = None,
        similarity: Similarity | None = None,
    ) -> None:
        """siblings: other editions; default are those among the passages. similarity: None compares no meanings."""
        self.question = question
        self._similarity = similarity
        self.passages = passages
        self.units = units_of(passages)
        self._cache: dict[str, _Text] = {}
        read = self._read
        self._texts = [read(unit.text) for unit in self.units]
        self._heading = [read(unit.heading) for unit in self.units]
        self._lead = [read(unit.lead) for unit in self.units]
        self._before = [read(unit.before) for unit in self.units]
        self._after = [read(unit.after) for unit in self.units]
        self._passage = [read(f"{passage.heading or ''}\n{passage.text}") for passage in passages]
        files = [read(_name(passage.filename)) for passage in passages]
        self._file = [files[unit.passage] for unit in self.units]
        self._file_terms = frozenset(term for file in files for term in file.terms)
        self._cells = [[(read(cell.header), read(cell.value)) for cell in unit.cells] for unit in self.units]
        self.weights = self._idf()
        self.total = sum(self.weights.values()) or 1.0
        heavy = sorted(self.weights, key=lambda term: -self.weights[term])
        self._rarest = frozenset(heavy[:1])
        self._rare_two = frozenset(heavy[:4])
        self._editions = _edition_fits(question, passages, today, siblings)
        self.wanted = [kind for kind in question.wanted if kind is not Wanted.YES_NO]
        orders = {at for at, unit in enumerate(self.units) if _gives_orders(unit, passages[unit.passage])}
        self.candidates = [
            candidate
            for candidate in candidates_of(self.units, [self._named(at) for at in range(len(self.units))])
            if orders.isdisjoint(range(candidate.first, candidate.last + 1))
        ]

    def unit_of(self, candidate: Candidate) -> Unit:
        """The unit that a candidate begins with."""
        return self.units[candidate.first]

    def _read(self, text: str) -> _Text:
        known = self._cache.get(text)
        if known is None:
            folded = fold(text)
            own = frozenset(tokenize(text))
            known = _Text(
                folded,
                own.intersection(self.question.terms),
                sum(len(term) > 1 for term in own),
                identifiers_in(folded) if self.question.identifiers else frozenset(),
                numbers_in(folded) if self.question.numbers else frozenset(),
            )
            self._cache[text] = known
        return known

    def _idf(self) -> dict[str, float]:
        counts: Counter[str] = Counter()
        for text, heading, file in zip(self._texts, self._heading, self._file, strict=True):
            counts.update(text.terms | heading.terms | file.terms)
        n = len(self.units) + 1
        return {term: weight * math.log((n + 1) / (counts[term] + 0.5)) for term, weight in self.question.terms.items()}

    def share(self, terms: frozenset[str]) -> float:
        """Share of the question's weight that some of its terms carry."""
        return sum(self.weights[term] for term in terms) / self.total

    def _named(self, at: int) -> list[bool]:
        """For each cell whether its value stands in the question: what names the row."""
        named = []
        for _, value in self._cells[at]:
            strong = bool(value.identifiers & self.question.identifiers) or bool(
                value.numbers and value.numbers <= self.question.numbers
            )
            own = sum(self.question.terms[term] for term in value.terms)
            named.append(strong or (bool(value.terms) and own >= 0.6 * min(max(value.size, 1), 3)))
        return named

    def features(self) -> NDArray[np.float64]:
        """(candidates, FEATURES)."""
        units = [self._unit_values(at) for at in range(len(self.units))]
        best = [0.0] * len(self.passages)
        for unit, values in zip(self.units, units, strict=True):
            best[unit.passage] = max(best[unit.passage], values["near_cover"])
        top = max((passage.score for passage in self.passages), default=1.0) or 1.0
        measures = measures_in(self.question.folded)
        fits = [fit(measures, ranges_in(text.folded)) if measures else 0.0 for text in self._texts]
        some = max(fits, default=0.0) > 0
        for at, (unit, values) in enumerate(zip(self.units, units, strict=True)):
            values["rank"] = 1.0 / (1 + unit.passage)
            values["score"] = self.passages[unit.passage].score / top
            values["best_in_passage"] = float(values["near_cover"] >= best[unit.passage] - 1e-9)
            values["range_fit"] = fits[at]
            values["range_missed"] = float(some and fits[at] <= 0)
        table = np.zeros((len(self.candidates), len(FEATURES)))
        for row, candidate in enumerate(self.candidates):
            values = units[candidate.first] | self._text_values(candidate, units)
            table[row] = [values.get(name, 0.0) for name in FEATURES]
        self._compare(table)
        return table

    def _compare(self, table: NDArray[np.float64]) -> None:
        """Fill in how near the meaning of the likeliest candidates is to the question's, in each language."""
        column = {name: at for at, name in enumerate(FEATURES)}
        languages = [passage_language(passage.text) for passage in self.passages]
        foreign = np.array(
            [
                languages[self.units[c.first].passage] not in {self.question.language, Language.OTHER}
                for c in self.candidates
            ],
            dtype=bool,
        )
        table[:, column["foreign"]] = foreign
        if self._similarity is None or not len(table):
            return
        likely = table[:, column["beside_cover"]] + table[:, column["text_cover"]] + table[:, column["score"]]
        whole = np.array([c.form is not Form.CLAUSE for c in self.candidates])
        chosen: list[int] = []
        for side in (foreign, ~foreign):
            order = [int(at) for at in np.argsort(-likely, kind="stable") if side[at] and whole[at]]
            chosen += order[:_COMPARED]
        texts = [shown(self.candidates[at], self.unit_of(self.candidates[at])) for at in chosen]
        table[:, column["not_compared"]] = 1.0
        if not texts:
            return
        cosines = np.asarray(self._similarity(self.question.text, texts))
        table[chosen, column["not_compared"]] = 0.0
        table[chosen, column["similar"]] = cosines
        table[chosen, column["similar_best"]] = cosines >= cosines.max() - 1e-9
        table[:, column["similar_foreign"]] = table[:, column["similar"]] * foreign

    def _unit_values(self, at: int) -> dict[str, float]:
        question, unit, text = self.question, self.units[at], self._texts[at]
        heading, lead, file = self._heading[at], self._lead[at], self._file[at]
        passage, edition = self._passage[unit.passage], self._editions[unit.passage]
        near = text.terms | heading.terms | lead.terms
        everything = near | file.terms | self._before[at].terms | passage.terms
        values = {
            "all_cover": self.share(everything),
            "near_cover": self.share(near),
            "beside_cover": self.share(near | file.terms),
            "around_cover": self.share(near | self._before[at].terms | self._after[at].terms),
            "passage_cover": self.share(passage.terms | file.terms),
            "document_cover": self.share(file.terms),
            "heading_cover": self.share(heading.terms),
            "other_document": self.share(self._file_terms - everything),
            "rare_missing": max((w for t, w in self.weights.items() if t not in everything), default=0.0) / self.total,
            "rarest_here": float(self._rarest <= near),
            "rare_two_here": len(self._rare_two & near) / 4,
            "is_heading": float(unit.kind is UnitKind.HEADING),
            "is_row": float(unit.kind is UnitKind.ROW),
            "is_item": float(unit.kind is UnitKind.ITEM),
            "is_question": float(unit.text.rstrip().endswith(("?", "？", "ですか。", "ますか。", "か"))),
            "answers_question_above": self.share(lead.terms),
            "edition_named": float(edition.named),
            "edition_differs": float(edition.differs),
            "edition_newest": float(edition.newest > 0 and edition.named == 0),
            "edition_older": float(edition.newest < 0 and edition.named == 0),
            "edition_over": float(edition.expired and edition.named == 0),
        }
        if question.identifiers:
            beside = question.identifiers & (heading.identifiers | lead.identifiers | file.identifiers)
            values["identifiers_near"] = len(beside - text.identifiers) / len(question.identifiers)
            missing = question.identifiers - text.identifiers - beside
            values["identifiers_missing"] = len(missing) / len(question.identifiers)
        if question.numbers:
            told = text.numbers | heading.numbers | lead.numbers | file.numbers
            values["numbers_missing"] = len(question.numbers - told) / len(question.numbers)
        return values

    def _text_values(self, candidate: Candidate, units: Sequence[Mapping[str, float]]) -> dict[str, float]:
        question, unit, at = self.question, self.units[candidate.first], candidate.first
        text = self._texts[at] if candidate.form is Form.UNIT else self._read(candidate.text)
        held = [kind for kind in self.wanted if holds(kind, text.folded)]
        cover = self.share(text.terms)
        values = {
            "text_cover": cover,
            "wanted_here": len(held) / len(self.wanted) if self.wanted else 0.0,
            "wanted_missing": float(bool(self.wanted) and not held),
            "length": math.log1p(len(text.folded)) / 6,
            "long": float(len(text.folded) > _LONG_CHARS),
            "sentence_end": float(candidate.text.endswith(("。", ".", "！", "!"))),
            "many_values": min(max((count(kind, text.folded) for kind in held), default=1), 5) / 5,
            "verdict": float(Wanted.YES_NO in question.wanted and VERDICT.search(text.folded) is not None),
        }
        if question.identifiers:
            values["identifiers_here"] = len(question.identifiers & text.identifiers) / len(question.identifiers)
            values["identifiers_other"] = float(bool(text.identifiers - question.identifiers))
        if question.numbers:
            values["numbers_here"] = len(question.numbers & text.numbers) / len(question.numbers)
        whole = self._texts[at]
        match candidate.form:
            case Form.CLAUSE:
                values |= {"clause": 1.0, "clause_lost": self.share(whole.terms - text.terms)}
            case Form.PAIR | Form.BLOCK:
                values["list_block"] = float(candidate.form is Form.BLOCK and Wanted.LIST in question.wanted)
                values |= {
                    candidate.form.value: 1.0,
                    f"{candidate.form.value}_gain": self.share(text.terms - whole.terms),
                }
            case Form.CELL:
                values |= self._cell_values(candidate)
            case Form.UNIT if unit.kind is UnitKind.ROW:
                values["row_cells"] = min(len(unit.cells), 12) / 12
                values["row_whole_of_asked"] = float(
                    len(unit.cells) > 2 and any(self.share(header.terms) > 0 for header, _ in self._cells[at])
                )
            case _:
                values["list_short"] = float(unit.kind is UnitKind.ITEM and Wanted.LIST in question.wanted)
        return values

    def _cell_values(self, candidate: Candidate) -> dict[str, float]:
        assert candidate.cell is not None
        at, question = candidate.first, self.question
        header, value = self._cells[at][candidate.cell]
        both = f"{value.folded} {header.folded}"
        held = [kind for kind in self.wanted if holds(kind, value.folded) or holds(kind, both)]
        keys = frozenset(term for key in candidate.keys for term in self._cells[at][key][1].terms)
        cover = self.share(header.terms)
        best = max(self.share(other.terms) for other, _ in self._cells[at])
        others = [h.numbers for h, _ in self._cells[at] if h.numbers and h.numbers <= question.numbers]
        return {
            "cell": 1.0,
            "cell_header": cover,
            "cell_header_best": float(cover > 0 and cover >= best - 1e-9),
            "cell_header_number": float(bool(header.numbers) and header.numbers <= question.numbers),
            "cell_header_other_number": float(bool(others) and not (header.numbers and header.numbers in others)),
            "cell_value": self.share(value.terms - header.terms),
            "cell_wanted": len(held) / len(self.wanted) if self.wanted else 0.0,
            "cell_unwanted": float(bool(self.wanted) and not held),
            "cell_first": float(candidate.cell == 0),
            "cell_keys": self.share(keys),
            "cell_named": self.share(keys | header.terms | self._heading[at].terms | self._file[at].terms),
        }


def _edition_fits(
    question: Question, passages: Sequence[Passage], today: date, siblings: Siblings | None
) -> list[EditionFit]:
    """How the edition of each passage's document fits."""
    asked = question_edition(question.text, today)
    known = {passage.document_id: passage.edition for passage in passages if passage.edition is not None}
    fits = {}
    for key, edition in known.items():
        others = [one for one in known.values() if edition.family is not None and one.family == edition.family]
        fits[key] = edition_fit(asked, edition, today, [*others, *(siblings or {}).get(key, ())])
    return [fits.get(passage.document_id, EditionFit()) for passage in passages]


def _name(filename: str) -> str:
    return filename.rsplit(".", 1)[0].replace("_", " ")


def _gives_orders(unit: Unit, passage: Passage) -> bool:
    """A line that tells a model what to say answers nobody, however many words of the question stand in it."""
    start, end = unit.start - passage.start, unit.end - passage.start
    return any(first < end and start < last for first, last in orders_in(passage.text))


def pool_of(
    question: str,
    passages: Sequence[Passage],
    today: date,
    siblings: Siblings | None = None,
    similarity: Similarity | None = None,
) -> Pool:
    """Read a question and its passages; see `Pool`."""
    return Pool(read_question(question), passages, today, siblings, similarity)


def scores(features: NDArray[np.float64], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """Linear scores, (candidates,)."""
    total: NDArray[np.float64] = features @ np.array([weights.get(name, 0.0) for name in FEATURES])
    return total
