"""What is said: the model's words where the evidence bears them out, else the line itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from core.ports import GenerationHandle
from core.types import Citation, GenerationResult, Passage
from generation.citations import cite, passage_edition
from generation.evidence.computed import Computed
from generation.evidence.computing.calculations import Operation
from generation.evidence.parameters import EvidenceParameters
from generation.evidence.stage import Evidence, Line
from generation.prompt import is_not_found, not_found_text


class AnsweredBy(StrEnum):
    """Whose words an answer is in."""

    MODEL = "model"
    LINE = "line"
    COMPUTED = "computed"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class ModelSaid:
    """What the model's own words were: a refusal, or borne out by the passages."""

    refused: bool
    supported: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer as it is given, and where it comes from. model: what the model itself did; None: it was not asked."""

    text: str
    answered_by: AnsweredBy
    confidence: float
    citations: tuple[Citation, ...]
    model: ModelSaid | None
    operation: Operation | None = None
    """Of a computed answer."""

    @property
    def provenance(self) -> dict[str, object]:
        """What the stored answer says of it."""
        told: dict[str, object] = {"answered_by": self.answered_by.value}
        if self.operation is not None:
            told["operation"] = self.operation.value
        if self.model is not None:
            # Figures on adapters must not take the line's merits for theirs.
            told["model"] = {"refused": self.model.refused, "supported": self.model.supported}
        return told


class ComposedAnswer:
    """A `GenerationHandle` that hears the model to the end before it speaks: what is said cannot be taken back."""

    def __init__(
        self,
        handle: GenerationHandle,
        question: str,
        evidence: Evidence,
        passages: Sequence[Passage],
        parameters: EvidenceParameters,
        *,
        styled: bool,
    ) -> None:
        """passages: what the model reads. styled: an adapter is in force, whose way of saying things is wanted."""
        self._handle = handle
        self._question = question
        self._evidence = evidence
        self._passages = passages
        self._parameters = parameters
        self._styled = styled
        self.verdict: Verdict | None = None

    def __iter__(self) -> Iterator[str]:
        text = "".join(self._handle).strip()
        if self._handle.result().finish_reason == "cancelled":
            yield text
            return
        self.verdict = decide(
            text, self._question, self._evidence, self._passages, self._parameters, styled=self._styled
        )
        yield self.verdict.text

    def cancel(self) -> None:
        """Stop the model."""
        self._handle.cancel()

    def result(self) -> GenerationResult:
        """The model's result, with the text that is given."""
        result = self._handle.result()
        return result if self.verdict is None else replace(result, text=self.verdict.text)


def decide(
    text: str,
    question: str,
    evidence: Evidence,
    passages: Sequence[Passage],
    parameters: EvidenceParameters,
    *,
    styled: bool,
) -> Verdict:
    """Choose between the model's words and the best line, or refuse. Arguments as of `ComposedAnswer`.

    Over rows, forms and headed rules the line is right far more often than what a small model makes of it (0.78 against
    0.48 of 196 office questions on which both stand on one line); over running text the model is (docs/adr/0021). An
    adapter's words are taken wherever the evidence bears them out.
    """
    refused = is_not_found(text) or not text
    citations = () if refused else tuple(cite(text, passages, question=question))
    supported = bool(citations) and all(citation.verified for citation in citations)
    said = ModelSaid(refused, supported)
    agreed = supported and _borne_out(citations, evidence.lines[:1])
    near = supported and _borne_out(citations, evidence.lines)
    if (supported or refused) and reads_well(evidence):
        confidence = parameters.after_reading(evidence.confidence, agreed=agreed, near=near, refused=refused)
        evidence = replace(evidence, confidence=confidence)
    elif not (styled and near):
        supported = False
    if evidence.confidence < parameters.refuse:
        return Verdict(not_found_text(question), AnsweredBy.NOBODY, evidence.confidence, (), said)
    if supported:
        sure = _sure(evidence, parameters)
        marked = tuple(replace(citation, verified=citation.verified and sure) for citation in citations)
        return Verdict(text, AnsweredBy.MODEL, evidence.confidence, marked, said)
    return replace(line_verdict(evidence, parameters), model=said)


def reads_well(evidence: Evidence) -> bool:
    """Whether the best line is running text, which even a small model reads well and says shorter."""
    return bool(evidence.lines) and evidence.lines[0].prose


def _borne_out(citations: Sequence[Citation], lines: Sequence[Line]) -> bool:
    return any(_overlaps(citation, line) for citation in citations for line in lines)


def line_verdict(evidence: Evidence, parameters: EvidenceParameters) -> Verdict:
    """The best line as the answer, the model not asked."""
    answer, cited = quoted(evidence.lines[0], verified=_sure(evidence, parameters))
    return Verdict(answer, AnsweredBy.LINE, evidence.confidence, (cited,), None)


def _sure(evidence: Evidence, parameters: EvidenceParameters) -> bool:
    """Whether a citation may say verified."""
    return evidence.confidence >= parameters.verify and not _untold(evidence)


def _overlaps(citation: Citation, line: Line) -> bool:
    place = line.passage
    same = (citation.document_id, citation.generation) == (place.document_id, place.generation)
    return same and citation.start < place.end and place.start < citation.end


def quoted(line: Line, *, verified: bool) -> tuple[str, Citation]:
    """A line as an answer that cites itself as [1]."""
    return f"{line.answer} [1]", _citation(1, len(line.answer), line.passage, verified=verified)


def computed_verdict(computed: Computed) -> Verdict:
    """A computed answer, which cites each row that it stands on, or the first of them."""
    marks = "".join(f"[{index}]" for index in range(1, len(computed.lines) + 1))
    citations = tuple(
        _citation(index, len(computed.text), line, verified=True) for index, line in enumerate(computed.lines, 1)
    )
    text = f"{computed.text} {marks}"
    return Verdict(text, AnsweredBy.COMPUTED, computed.confidence, citations, None, computed.operation)


def computed_evidence(computed: Computed) -> Evidence:
    """The rows of a computed answer as evidence."""
    lines = (Line(row.text, row, "row", 1.0, prose=False) for row in computed.lines)
    return Evidence(tuple(lines), (), computed.confidence, {})


def _citation(index: int, length: int, passage: Passage, *, verified: bool) -> Citation:
    """A citation of a whole line by an answer of so many code points."""
    return Citation(
        index=index,
        answer_start=0,
        answer_end=length,
        document_id=passage.document_id,
        generation=passage.generation,
        filename=passage.filename,
        page=passage.page,
        start=passage.start,
        end=passage.end,
        quote=passage.text,
        verified=verified,
        edition=passage_edition(passage),
    )


def _untold(evidence: Evidence) -> bool:
    """Whether something that tells rows apart in the question stands nowhere near the line."""
    return evidence.signals["identifiers_missing"] > 0 or evidence.signals["numbers_missing"] > 0


def lines_as_json(lines: Sequence[Line]) -> list[dict[str, object]]:
    """Lines as answers carry and store them, best first."""
    return [
        {
            "text": line.answer,
            "kind": line.kind,
            "document_id": line.passage.document_id,
            "generation": line.passage.generation,
            "filename": line.passage.filename,
            "page": line.passage.page,
            "heading": line.passage.heading,
            "start": line.passage.start,
            "end": line.passage.end,
            "quote": line.passage.text,
            "probability": round(line.probability, 4),
        }
        for line in lines
    ]
