"""What is said: the model's words where the evidence bears them out, else the line itself, else that nothing was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from core.ports import GenerationHandle
from core.types import Citation, GenerationResult
from generation.citations import cite
from generation.evidence.parameters import EvidenceParameters
from generation.evidence.stage import Evidence, Line
from generation.prompt import is_not_found, not_found_text


class AnsweredBy(StrEnum):
    """Whose words an answer is in."""

    MODEL = "model"
    LINE = "line"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer as it is given. supported: whether the model's own words were borne out, for figures on adapters."""

    text: str
    answered_by: AnsweredBy
    confidence: float
    citations: tuple[Citation, ...]
    model_refused: bool
    model_supported: bool


class ComposedAnswer:
    """A `GenerationHandle` that hears the model to the end before it says anything: what is said cannot be taken back."""

    def __init__(
        self, handle: GenerationHandle, question: str, evidence: Evidence, parameters: EvidenceParameters
    ) -> None:
        self._handle = handle
        self._question = question
        self._evidence = evidence
        self._parameters = parameters
        self.verdict: Verdict | None = None

    def __iter__(self) -> Iterator[str]:
        text = "".join(self._handle).strip()
        if self._handle.result().finish_reason == "cancelled":
            yield text
            return
        self.verdict = decide(text, self._question, self._evidence, self._parameters)
        yield self.verdict.text

    def cancel(self) -> None:
        """Stop the model."""
        self._handle.cancel()

    def result(self) -> GenerationResult:
        """The model's result, with the text that is given."""
        result = self._handle.result()
        return result if self.verdict is None else replace(result, text=self.verdict.text)


def decide(text: str, question: str, evidence: Evidence, parameters: EvidenceParameters) -> Verdict:
    """Choose between the model's words and the best line, or refuse."""
    passages = [line.passage for line in evidence.lines]
    refused = is_not_found(text) or not text
    citations = () if refused else tuple(cite(text, passages, question=question))
    supported = bool(citations) and all(citation.verified for citation in citations)
    agreed = supported and any(citation.index == 1 for citation in citations)
    confidence = parameters.heard(evidence.confidence, agreed=agreed, supported=supported, refused=refused)
    if confidence < parameters.refuse or not evidence.lines:
        return Verdict(not_found_text(question), AnsweredBy.NOBODY, confidence, (), refused, supported)
    sure = confidence >= parameters.verify and not _untold(evidence)
    if agreed:
        marked = tuple(replace(citation, verified=citation.verified and sure) for citation in citations)
        return Verdict(text, AnsweredBy.MODEL, confidence, marked, refused, supported)
    answer, cited = quoted(evidence.lines[0], verified=sure)
    return Verdict(answer, AnsweredBy.LINE, confidence, (cited,), refused, supported)


def quoted(line: Line, *, verified: bool) -> tuple[str, Citation]:
    """A line as an answer that cites itself as [1]."""
    passage = line.passage
    return f"{line.answer} [1]", Citation(
        index=1,
        answer_start=0,
        answer_end=len(line.answer),
        document_id=passage.document_id,
        generation=passage.generation,
        filename=passage.filename,
        page=passage.page,
        start=passage.start,
        end=passage.end,
        quote=passage.text,
        verified=verified,
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
