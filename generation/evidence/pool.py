"""Units of the passages of one question, read once, and the candidates for its answer that they make."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from core.editions import DocumentEdition, EditionFit, edition_fit
from core.ports import Bridge
from core.question_edition import question_edition
from core.text_folding import fold
from core.types import Passage
from generation.evidence.candidates import Candidate, Form, candidates_of, parts_of, strongly_parted
from generation.evidence.parts import amounts_alike, complete, narrowed, said_together
from generation.evidence.question import Question, Wanted, identifiers_in, numbers_in, read_question
from generation.evidence.units import Unit, UnitKind, units_of
from generation.evidence.values import holds
from generation.orders import orders_in
from retrieval.lexical import tokenize

_NUMBERS = re.compile(r"[0-9]{1,4}")
_DATED_CHARS = 160
_WIDE_ROW = 3
"""Cells from which a whole row says much that nobody asked for."""

Siblings = Mapping[str, Sequence[DocumentEdition]]
"""{document id: other editions of its family}."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as the question sees it."""

    folded: str
    terms: frozenset[str]
    """Those of the question's that stand in it."""
    size: int
    """How many terms of more than one character it has."""
    identifiers: frozenset[str]
    numbers: frozenset[str]
    asked: float
    """Share of its terms of more than one character that are the question's."""


class Pool:
    """Units of the passages of one question, their texts read once, and the candidates they make."""

    def __init__(
        self,
        question: Question,
        passages: Sequence[Passage],
        today: date,
        siblings: Siblings | None = None,
        bridge: Bridge | None = None,
    ) -> None:
        """siblings: other editions; default are those among the passages. bridge: None compares no meanings."""
        self.question = question
        self.bridge = bridge
        self.passages = passages
        self.units = units_of(passages)
        self._cache: dict[str, Reading] = {}
        read = self.read
        self.texts = [read(unit.text) for unit in self.units]
        self.headings = [read(unit.heading) for unit in self.units]
        self.leads = [read(unit.lead) for unit in self.units]
        self.before = [read(unit.before) for unit in self.units]
        self.after = [read(unit.after) for unit in self.units]
        self.passage_texts = [read(f"{passage.heading or ''}\n{passage.text}") for passage in passages]
        files = [read(document_name(passage.filename)) for passage in passages]
        self.files = [files[unit.passage] for unit in self.units]
        self.titles = [read((passage.heading or "").partition(" > ")[0]) for passage in passages]
        self.cells = [[(read(cell.header), read(cell.value)) for cell in unit.cells] for unit in self.units]
        self.names = self._names()
        self.file_terms = frozenset(term for file in files for term in file.terms)
        self.dated = [_dated(unit.heading.rpartition(" > ")[2]) for unit in self.units]
        self.beside = [self._around(at) for at in range(len(self.units))]
        self.weights = self._idf()
        self.total = sum(self.weights.values()) or 1.0
        heavy = sorted(self.weights, key=lambda term: -self.weights[term])
        self.rarest = frozenset(heavy[:1])
        self.rare_two = frozenset(heavy[:4])
        self.editions = _edition_fits(question, passages, today, siblings)
        self.wanted = [kind for kind in question.wanted if kind is not Wanted.YES_NO]
        everything = candidates_of(
            self.units,
            [self._named(at) for at in range(len(self.units))],
            [said_together([header.folded for header, _ in cells], question.folded) for cells in self.cells],
        )
        orders = {at for at, unit in enumerate(self.units) if _gives_orders(unit, passages[unit.passage])}
        self.candidates = [
            one for one in everything if orders.isdisjoint(range(one.first, one.last + 1)) and not self._repeats(one)
        ]

    def _names(self) -> list[frozenset[str]]:
        """Of each passage the identifiers that name its whole document: in its title, or a field there is once of."""
        fields: dict[tuple[str, str], list[frozenset[str]]] = {}
        if not self.question.identifiers:
            return [frozenset()] * len(self.passages)
        for unit, cells in zip(self.units, self.cells, strict=True):
            if len(cells) == 1 and cells[0][0].folded:
                key = (self.passages[unit.passage].document_id, cells[0][0].folded)
                fields.setdefault(key, []).append(cells[0][1].identifiers)
        named: dict[str, frozenset[str]] = {}
        for (document, _), found in fields.items():
            if len(found) == 1:
                named[document] = named.get(document, frozenset()) | found[0]
        return [
            title.identifiers | named.get(passage.document_id, frozenset())
            for title, passage in zip(self.titles, self.passages, strict=True)
        ]

    def unit_of(self, candidate: Candidate) -> Unit:
        """The unit that a candidate begins with."""
        return self.units[candidate.first]

    def _around(self, at: int) -> list[int]:
        """A sentence or item and those beside it, in order."""
        unit = self.units[at]
        return [
            one
            for one in (at - 1, at, at + 1)
            if 0 <= one < len(self.units)
            and self.units[one].passage == unit.passage
            and (one == at or self.units[one].kind in {UnitKind.SENTENCE, UnitKind.ITEM})
        ]

    def read(self, text: str) -> Reading:
        """A text as the question sees it; each is read once."""
        known = self._cache.get(text)
        if known is None:
            folded = fold(text)
            own = frozenset(tokenize(text))
            known = Reading(
                folded,
                own.intersection(self.question.terms),
                sum(len(term) > 1 for term in own),
                identifiers_in(folded) if self.question.identifiers else frozenset(),
                numbers_in(folded) if self.question.numbers else frozenset(),
                sum(term in self.question.terms for term in own if len(term) > 1)
                / max(sum(len(term) > 1 for term in own), 1),
            )
            self._cache[text] = known
        return known

    def _idf(self) -> dict[str, float]:
        counts: Counter[str] = Counter()
        for text, heading, file in zip(self.texts, self.headings, self.files, strict=True):
            counts.update(text.terms | heading.terms | file.terms)
        n = len(self.units) + 1
        return {term: weight * math.log((n + 1) / (counts[term] + 0.5)) for term, weight in self.question.terms.items()}

    def share(self, terms: frozenset[str]) -> float:
        """Share of the question's weight that some of its terms carry."""
        return sum(self.weights[term] for term in terms) / self.total

    def _named(self, at: int) -> list[bool]:
        """For each cell whether its value stands in the question: what names the row."""
        named = []
        for _, value in self.cells[at]:
            strong = bool(value.identifiers & self.question.identifiers) or bool(
                value.numbers and value.numbers <= self.question.numbers
            )
            own = sum(self.question.terms[term] for term in value.terms)
            named.append(strong or (bool(value.terms) and own >= 0.6 * min(max(value.size, 1), 3)))
        return named

    def tells(self, text: Reading) -> bool:
        """Whether a part tells of what is asked: it holds a value of that kind, or else names something."""
        kinds = [kind for kind in self.wanted if kind is not Wanted.LIST]
        return any(holds(kind, text.folded) for kind in kinds) if kinds else bool(text.identifiers)

    def narrowed_part(self, parts: Sequence[Reading]) -> int | None:
        """The one of several parts that says all that is asked for, where others tell the same of something else."""
        if Wanted.LIST in self.question.wanted or len(parts) < 2:
            return None
        known = self.question
        covers = [
            self.share(text.terms) + len(known.identifiers & text.identifiers) + len(known.numbers & text.numbers)
            for text in parts
        ]
        tells = [self.tells(text) for text in parts]
        amounts = not self.wanted and not any(tells)
        if amounts:  # no kind of value is asked for: parts that tell amounts in one unit tell the same of several
            tells = amounts_alike([text.folded for text in parts])
        meant = narrowed(covers, [one and complete(text.folded) for one, text in zip(tells, parts, strict=True)])
        if amounts and meant is not None and meant == tells.index(True):
            return None  # the first also holds what leads in to all of them
        kinds = {kind for kind in self.wanted if any(holds(kind, text.folded) for text in parts)}
        return meant if meant is None or all(holds(kind, parts[meant].folded) for kind in kinds) else None

    def narrow(self, at: int) -> int:
        """The candidate within a candidate that says what is asked and no more, where one does; else itself."""
        candidate = self.candidates[at]
        if candidate.form in {Form.PAIR, Form.BLOCK}:
            meant = self.narrowed_part([self.texts[one] for one in range(candidate.first, candidate.last + 1)])
            wanted = (
                None
                if meant is None
                else (Form.UNIT, candidate.first + meant, self.units[candidate.first + meant].text)
            )
        elif candidate.form is Form.UNIT and len(self.unit_of(candidate).cells) < 2:
            wanted = None
            for parts in (strongly_parted(self.unit_of(candidate)), parts_of(self.unit_of(candidate))):
                meant = self.narrowed_part([self.read(part) for part in parts])
                if meant is not None:
                    wanted = (Form.CLAUSE, candidate.first, parts[meant])
                    break
        else:
            column = self._column(candidate)
            return at if column is None else column
        places = [place for place, one in enumerate(self.candidates) if (one.form, one.first, one.text) == wanted]
        return self.narrow(places[0]) if places else at

    def _column(self, candidate: Candidate) -> int | None:
        """Of a whole row the candidate of the one column that the question names more of than of any other."""
        cells = self.cells[candidate.first]
        if candidate.form is not Form.UNIT or len(cells) < _WIDE_ROW or Wanted.LIST in self.question.wanted:
            return None
        covers = [self._asked(*cell, key) for key, cell in zip(self._named(candidate.first), cells, strict=True)]
        second, best = sorted(covers)[-2:]
        if best <= second + 1e-9:
            return None
        cell = (Form.CELL, candidate.first, covers.index(best))
        return next((at for at, one in enumerate(self.candidates) if (one.form, one.first, one.cell) == cell), None)

    def _asked(self, header: Reading, value: Reading, key: bool) -> float:
        """Share of the question that a column's header says; what the question says itself only names the row."""
        named = key or (value.folded and value.folded in self.question.folded)
        return 0.0 if named or not header.asked else self.share(header.terms)

    def _repeats(self, candidate: Candidate) -> bool:
        """Whether what stands behind a label is only what the question itself says."""
        if self.question.either or Wanted.YES_NO in self.question.wanted:
            return False
        if candidate.cell is None and len(self.unit_of(candidate).cells) != 1:
            return False
        value = self.new_part(candidate, self.read(candidate.text)).folded.strip()
        return len(value) > 2 and value in self.question.folded

    def new_part(self, candidate: Candidate, text: Reading) -> Reading:
        """What of a candidate is not its label."""
        unit, cells = self.unit_of(candidate), self.cells[candidate.first]
        if candidate.cell is not None:
            return cells[candidate.cell][1]
        return cells[0][1] if candidate.form is Form.UNIT and len(unit.cells) == 1 else text


def _gives_orders(unit: Unit, passage: Passage) -> bool:
    """A line that tells a model what to say answers nobody, however many words of the question stand in it."""
    start, end = unit.start - passage.start, unit.end - passage.start
    return any(first < end and start < last for first, last in orders_in(passage.text))


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


def _dated(heading: str) -> tuple[int, ...]:
    """The date or version that a heading tells, by its numbers: (5, 3, 0, 2025, 7, 2); () for fewer than three."""
    numbers = tuple(int(number) for number in _NUMBERS.findall(heading[:_DATED_CHARS])[:8])
    return numbers if len(numbers) > 2 else ()


def document_name(filename: str) -> str:
    """A file's name as words."""
    return filename.rsplit(".", 1)[0].replace("_", " ")


def pool_of(
    question: str,
    passages: Sequence[Passage],
    today: date,
    siblings: Siblings | None = None,
    bridge: Bridge | None = None,
) -> Pool:
    """Read a question and its passages; see `Pool`."""
    return Pool(read_question(question), passages, today, siblings, bridge)
