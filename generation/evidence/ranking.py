"""Which candidate answers the question: features of each, and a linear model over them.

The model's weights are data (`parameters.json`), fitted by `tsumugi calibrate`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from core.language import passage_language
from core.types import Language
from generation.evidence.candidates import Candidate, Form, parts_of, shown
from generation.evidence.meaning import MEANING_FEATURES, Said, compare
from generation.evidence.parts import said_part
from generation.evidence.pool import Pool, Reading, document_name
from generation.evidence.question import Wanted, articles_in
from generation.evidence.ranges import fit, measures_in, ranges_in
from generation.evidence.units import UnitKind
from generation.evidence.values import DEFINES, VERDICT, count, holds

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
    # what it is called, and what is new in it
    "label", "label_cover", "label_whole", "rest_cover", "rest_here", "nothing_new", "header_said", "header_other_said",
    "key_said", "key_range_fit", "article_here", "article_other", "defines", "competing", "sole", "not_sole",
    "later_here",
    # what it means
    "foreign", "not_compared", *MEANING_FEATURES,
)  # fmt: skip
SPEAKS_AGAINST = frozenset((
    "other_document", "rare_missing", "identifiers_missing", "numbers_missing", "range_missed", "edition_differs",
    "edition_older", "edition_over", "wanted_missing", "identifiers_other", "is_question", "clause_lost",
    "cell_unwanted", "cell_header_other_number", "header_other_said", "article_other", "competing", "not_sole",
    "nothing_new", "value_soft", "row_whole_of_asked", "is_heading",
))  # fmt: skip
SPEAKS_NEITHER = frozenset((
    "is_row", "is_item", "length", "long", "sentence_end", "many_values", "clause", "pair", "block", "row_cells",
    "cell", "cell_first", "cell_value", "list_short", "label", "foreign", "not_compared",
))  # fmt: skip
"""All others speak for a candidate.

What a fit may not turn round, however few questions it has: a few hundred cannot tell the sign of every feature.
"""
_LONG_CHARS = 160
_COMPARED = 64
"""Candidates of each language side whose meaning is compared with the question's."""


def features(pool: Pool) -> NDArray[np.float64]:
    """(candidates, FEATURES)."""
    units = [_unit_values(pool, at) for at in range(len(pool.units))]
    best = [0.0] * len(pool.passages)
    for unit, values in zip(pool.units, units, strict=True):
        best[unit.passage] = max(best[unit.passage], values["near_cover"])
    top = max((passage.score for passage in pool.passages), default=1.0) or 1.0
    measures = measures_in(pool.question.folded)
    fits = [fit(measures, ranges_in(text.folded)) if measures else 0.0 for text in pool.texts]
    some = max(fits, default=0.0) > 0
    for at, (unit, values) in enumerate(zip(pool.units, units, strict=True)):
        values["rank"] = 1.0 / (1 + unit.passage)
        values["score"] = pool.passages[unit.passage].score / top
        values["best_in_passage"] = float(values["near_cover"] >= best[unit.passage] - 1e-9)
        values["range_fit"] = fits[at]
        values["range_missed"] = float(some and fits[at] <= 0)
        values["later_here"] = _later(pool, at, units)
    table = np.zeros((len(pool.candidates), len(FEATURES)))
    for row, candidate in enumerate(pool.candidates):
        values = units[candidate.first] | _text_values(pool, candidate)
        table[row] = [values.get(name, 0.0) for name in FEATURES]
    _compare(pool, table)
    return table


def _compare(pool: Pool, table: NDArray[np.float64]) -> None:
    """Fill in how near the meaning of the likeliest candidates is to the question's, in each language."""
    column = {name: at for at, name in enumerate(FEATURES)}
    languages = [passage_language(passage.text) for passage in pool.passages]
    foreign = np.array(
        [
            languages[pool.units[c.first].passage] not in {pool.question.language, Language.OTHER}
            for c in pool.candidates
        ],
        dtype=bool,
    )
    table[:, column["foreign"]] = foreign
    if pool.bridge is None or not len(table):
        return
    likely = table[:, column["beside_cover"]] + table[:, column["text_cover"]] + table[:, column["score"]]
    whole = np.array([c.form is not Form.CLAUSE for c in pool.candidates])
    table[:, column["not_compared"]] = 1.0
    filled = [column[name] for name in MEANING_FEATURES]
    order = np.argsort(-likely, kind="stable")
    for side in (foreign, ~foreign):
        chosen = [int(at) for at in order if side[at] and whole[at]][:_COMPARED]
        table[chosen, column["not_compared"]] = 0.0
        table[np.ix_(chosen, filled)] = compare(
            pool.question.text, [_said(pool, pool.candidates[at]) for at in chosen], pool.bridge
        )

    whole_of = {pool.candidates[at].first: at for at in np.flatnonzero(table[:, column["not_compared"]] == 0)
                if pool.candidates[at].form is Form.UNIT}  # fmt: skip
    for at, candidate in enumerate(pool.candidates):
        if candidate.form is Form.CLAUSE and candidate.first in whole_of:
            table[at, filled] = table[whole_of[candidate.first], filled]
            table[at, column["not_compared"]] = 0.0


def _said(pool: Pool, candidate: Candidate) -> Said:
    unit = pool.unit_of(candidate)
    label, value = "", ""
    if candidate.cell is not None:
        label, value = unit.cells[candidate.cell].header, unit.cells[candidate.cell].value
    elif len(unit.cells) == 1 and unit.cells[0].header:
        label, value = unit.cells[0].header, unit.cells[0].value
    return Said(shown(candidate, unit), document_name(pool.passages[unit.passage].filename), label, value)


def _later(pool: Pool, at: int, units: Sequence[Mapping[str, float]]) -> float:
    """1 where no unit of its document that covers as much stands under a later date or number, -1 where one does.

    0 where headings tell neither, or the question asks for one of them.
    """
    own, document = pool.dated[at], pool.passages[pool.units[at].passage].document_id
    if not own or pool.question.numbers or pool.question.identifiers:
        return 0.0
    rivals = [
        other
        for other, dated in enumerate(pool.dated)
        if dated
        and len(dated) == len(own)
        and dated != own
        and pool.passages[pool.units[other].passage].document_id == document
        and units[other]["near_cover"] >= units[at]["near_cover"] - 1e-9
    ]
    return 0.0 if not rivals else 1.0 if all(pool.dated[other] < own for other in rivals) else -1.0


def _unit_values(pool: Pool, at: int) -> dict[str, float]:
    question, unit, text = pool.question, pool.units[at], pool.texts[at]
    heading, lead, file = pool.headings[at], pool.leads[at], pool.files[at]
    passage, edition = pool.passage_texts[unit.passage], pool.editions[unit.passage]
    near = text.terms | heading.terms | lead.terms
    everything = near | file.terms | pool.before[at].terms | passage.terms
    # What names the document says nothing of where in it the answer stands.
    context = file.terms | frozenset(pool.titles[unit.passage].terms)
    rest = pool.share(everything - context) or 1.0
    values = {
        "rest_cover": pool.share(near - context) / rest,
        "rest_here": pool.share(text.terms - context) / rest,
        "all_cover": pool.share(everything),
        "near_cover": pool.share(near),
        "beside_cover": pool.share(near | file.terms),
        "around_cover": pool.share(near | pool.before[at].terms | pool.after[at].terms),
        "passage_cover": pool.share(passage.terms | file.terms),
        "document_cover": pool.share(file.terms),
        "heading_cover": pool.share(heading.terms),
        "other_document": pool.share(pool.file_terms - everything),
        "rare_missing": max((w for t, w in pool.weights.items() if t not in everything), default=0.0) / pool.total,
        "rarest_here": float(pool.rarest <= near),
        "rare_two_here": len(pool.rare_two & near) / 4,
        "is_heading": float(unit.kind is UnitKind.HEADING),
        "is_row": float(unit.kind is UnitKind.ROW),
        "is_item": float(unit.kind is UnitKind.ITEM),
        "is_question": float(unit.text.rstrip().endswith(("?", "？", "ですか。", "ますか。", "か"))),
        "answers_question_above": pool.share(lead.terms),
        "edition_named": float(edition.named),
        "edition_differs": float(edition.differs),
        "edition_newest": float(edition.newest > 0 and edition.named == 0),
        "edition_older": float(edition.newest < 0 and edition.named == 0),
        "edition_over": float(edition.expired and edition.named == 0),
    }
    if question.articles:
        told_here = articles_in(f"{heading.folded[-80:]} {text.folded[:40]}")
        values["article_here"] = float(bool(question.articles & told_here))
        values["article_other"] = float(bool(told_here) and not question.articles & told_here)
    if question.definition:
        values["defines"] = float(bool(pool.rarest & text.terms) and DEFINES.search(text.folded[:80]) is not None)
    if len(unit.cells) == 1 and unit.cells[0].header:
        header = pool.cells[at][0][0]
        values |= {"label": 1.0, "label_cover": pool.share(header.terms), "label_whole": header.asked}
    if question.identifiers:
        names = file.identifiers | pool.names[unit.passage]
        beside = question.identifiers & (heading.identifiers | lead.identifiers | names)
        values["identifiers_near"] = len(beside - text.identifiers) / len(question.identifiers)
        missing = question.identifiers - text.identifiers - beside
        values["identifiers_missing"] = len(missing) / len(question.identifiers)
    if question.numbers:
        told = text.numbers | heading.numbers | lead.numbers | file.numbers
        values["numbers_missing"] = len(question.numbers - told) / len(question.numbers)
    return values


def _text_values(pool: Pool, candidate: Candidate) -> dict[str, float]:
    question, unit, at = pool.question, pool.units[candidate.first], candidate.first
    text = pool.texts[at] if candidate.form is Form.UNIT else pool.read(candidate.text)
    held = [kind for kind in pool.wanted if holds(kind, text.folded)]
    values = {
        "text_cover": pool.share(text.terms),
        "wanted_here": len(held) / len(pool.wanted) if pool.wanted else 0.0,
        "wanted_missing": float(bool(pool.wanted) and not held),
        "length": math.log1p(len(text.folded)) / 6,
        "long": float(len(text.folded) > _LONG_CHARS),
        "sentence_end": float(candidate.text.endswith(("。", ".", "！", "!"))),
        "many_values": min(max((count(kind, text.folded) for kind in held), default=1), 5) / 5,
        "nothing_new": pool.new_part(candidate, text).asked,
        "verdict": float(Wanted.YES_NO in question.wanted and VERDICT.search(text.folded) is not None),
    }
    if question.identifiers:
        values["identifiers_here"] = len(question.identifiers & text.identifiers) / len(question.identifiers)
        values["identifiers_other"] = float(bool(text.identifiers - question.identifiers))
    if question.numbers:
        values["numbers_here"] = len(question.numbers & text.numbers) / len(question.numbers)
    whole = pool.texts[at]
    match candidate.form:
        case Form.CLAUSE:
            parts = [pool.read(part) for part in parts_of(unit)]
            others = frozenset[str]().union(*(p.terms for p in parts if p is not text and pool.tells(p)))
            values |= {"clause": 1.0, "clause_lost": pool.share((whole.terms & others) - text.terms)}
            values["text_cover"] = pool.share(text.terms | (whole.terms - others))
            values |= _among(pool, parts, parts.index(text) if text in parts else None)
        case Form.PAIR | Form.BLOCK:
            values |= _over(pool, [pool.texts[one] for one in range(candidate.first, candidate.last + 1)])
            values["list_block"] = float(candidate.form is Form.BLOCK and Wanted.LIST in question.wanted)
            values |= {
                candidate.form.value: 1.0,
                f"{candidate.form.value}_gain": pool.share(text.terms - whole.terms),
            }
        case Form.CELL:
            values |= _cell_values(pool, candidate)
        case Form.UNIT if unit.kind is UnitKind.ROW:
            values["row_cells"] = min(len(unit.cells), 12) / 12
            values["row_whole_of_asked"] = float(
                len(unit.cells) > 2 and any(pool.share(header.terms) > 0 for header, _ in pool.cells[at])
            )
        case _:
            values |= _over(pool, [pool.read(part) for part in parts_of(unit)])
            values |= _among(pool, [pool.texts[one] for one in pool.beside[at]], pool.beside[at].index(at))
            values["list_short"] = float(unit.kind is UnitKind.ITEM and Wanted.LIST in question.wanted)
    return values


def _over(pool: Pool, parts: Sequence[Reading]) -> dict[str, float]:
    """Whether a candidate says more than what is asked."""
    return {"competing": float(pool.narrowed_part(parts) is not None)}


def _among(pool: Pool, parts: Sequence[Reading], own: int | None) -> dict[str, float]:
    """Whether a candidate is the part of its surroundings that is meant, or another one is."""
    meant = pool.narrowed_part(parts)
    return {"sole": float(meant is not None and meant == own), "not_sole": float(meant not in {None, own})}


def _cell_values(pool: Pool, candidate: Candidate) -> dict[str, float]:
    assert candidate.cell is not None
    at, question = candidate.first, pool.question
    header, value = pool.cells[at][candidate.cell]
    both = f"{value.folded} {header.folded}"
    held = [kind for kind in pool.wanted if holds(kind, value.folded) or holds(kind, both)]
    keys = frozenset(term for key in candidate.keys for term in pool.cells[at][key][1].terms)
    cover = pool.share(header.terms)
    best = max(pool.share(other.terms) for other, _ in pool.cells[at])
    others = [h.numbers for h, _ in pool.cells[at] if h.numbers and h.numbers <= question.numbers]
    said = [said_part(h.folded, question.folded) for h, _ in pool.cells[at]]
    measures = measures_in(question.folded)
    ends = [pool.cells[at][key][1].folded for key in candidate.keys]
    return {
        "cell": 1.0,
        "label_whole": header.asked,
        "header_said": said[candidate.cell],
        "header_other_said": max(said) - said[candidate.cell],
        "key_said": max((said_part(pool.cells[at][k][1].folded, question.folded) for k in candidate.keys), default=0),
        "key_range_fit": sum(fit(measures, ranges_in(text)) for text in (header.folded, *ends)) if measures else 0.0,
        "cell_header": cover,
        "cell_header_best": float(cover > 0 and cover >= best - 1e-9),
        "cell_header_number": float(bool(header.numbers) and header.numbers <= question.numbers),
        "cell_header_other_number": float(bool(others) and not (header.numbers and header.numbers in others)),
        "cell_value": pool.share(value.terms - header.terms),
        "cell_wanted": len(held) / len(pool.wanted) if pool.wanted else 0.0,
        "cell_unwanted": float(bool(pool.wanted) and not held),
        "cell_first": float(candidate.cell == 0),
        "cell_keys": pool.share(keys),
        "cell_named": pool.share(keys | header.terms | pool.headings[at].terms | pool.files[at].terms),
    }


def scores(features: NDArray[np.float64], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """Linear scores, (candidates,)."""
    total: NDArray[np.float64] = features @ np.array([weights.get(name, 0.0) for name in FEATURES])
    return total
