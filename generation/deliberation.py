"""Answers that take more than one generation: reasoning written before the answer, and the best of several.

A deliberation is a `GenerationHandle`, so that an answer is streamed and stored alike however it came about. Its cost
is plain in `usage`, which counts every generation that was made for the answer.
"""

from __future__ import annotations

import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from core.language import language_of
from core.ports import Engine, GenerationHandle
from core.types import AnswerFormat, GenerationRequest, GenerationResult, Language, Message
from generation.prompt import defuse, is_not_found

MAX_BEST_OF: Final = 8
SPREAD_TEMPERATURE: Final = 0.7
"""Temperature of all candidates but the first, which is greedy, where the request names none."""
REASONING_TOKENS: Final = 256

THINK: Final = {
    Language.ENGLISH: "Before answering, write step by step what the passages say about this.",
    Language.JAPANESE: "答える前に、資料に書かれていることを順を追って書いてください。",
}
CONCLUDE: Final = {
    Language.ENGLISH: "Now answer from the passages and cite.",
    Language.JAPANESE: "では、資料をもとに出典を付けて答えてください。",
}
GRADE: Final = {
    Language.ENGLISH: "Is this answer right and supported by the passages? Grade it from 1 to 5.",
    Language.JAPANESE: "この答えは正しく、資料に裏付けられていますか。1から5で評価してください。",
}
GRADES: Final = AnswerFormat(
    "grade", '{"type":"object","properties":{"grade":{"enum":[1,2,3,4,5]}},"required":["grade"]}'
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How an answer is come to."""

    request: GenerationRequest
    question: str
    reasoning: bool = False
    best_of: int = 1


class Deliberation:
    """Runs a plan. Iterating gives the pieces of the answer; `thoughts`, iterated first, those of the reasoning."""

    def __init__(self, engine: Engine, plan: Plan, support: Callable[[str], float]) -> None:
        """Submit the first generations, so that a full queue refuses here.

        support: share of an answer's citations that matching has verified, in [0, 1].
        """
        self._engine = engine
        self._plan = plan
        self._support = support
        self._language = language_of(plan.question)
        self._lock = threading.Lock()
        self._running: list[GenerationHandle] = []
        self._cancelled = False
        self._spent: list[GenerationResult] = []
        self._result: GenerationResult | None = None
        self._request = plan.request
        self._thinking = self._submit(self._thought_request()) if plan.reasoning else None
        self._candidates = [] if plan.reasoning else self._submit_candidates()

    def thoughts(self) -> Iterator[str]:
        """Pieces of the reasoning; nothing where none was asked for."""
        if self._thinking is None:
            return
        yield from self._thinking
        thought = self._thinking.result()
        self._spent.append(thought)
        self._thinking = None
        conclude = CONCLUDE.get(self._language, CONCLUDE[Language.ENGLISH])
        turns = (
            Message("assistant", defuse(thought.text)),
            Message("user", f"{conclude}\nQuestion: {defuse(self._plan.question)}"),
        )
        self._request = replace(self._plan.request, messages=(*self._plan.request.messages, *turns))
        if not self._cancelled:
            self._candidates = self._submit_candidates()

    def __iter__(self) -> Iterator[str]:
        for _ in self.thoughts():
            pass
        if self._plan.best_of == 1 and self._candidates:
            yield from self._candidates[0]
            self._result = self._candidates[0].result()
        else:
            self._result = self._best([handle.result() for handle in self._candidates])
            yield self._result.text
        self._spent.append(self._result)

    def cancel(self) -> None:
        """Stop all generations."""
        with self._lock:
            self._cancelled = True
            running = list(self._running)
        for handle in running:
            handle.cancel()

    def result(self) -> GenerationResult:
        """The answer, with the tokens of every generation; call it after iterating."""
        assert self._result is not None
        return replace(
            self._result,
            prompt_tokens=sum(one.prompt_tokens for one in self._spent),
            completion_tokens=sum(one.completion_tokens for one in self._spent),
            finish_reason="cancelled" if self._cancelled else self._result.finish_reason,
        )

    def _submit(self, request: GenerationRequest) -> GenerationHandle:
        handle = self._engine.submit(request)
        with self._lock:
            self._running.append(handle)
            cancelled = self._cancelled
        if cancelled:
            handle.cancel()
        return handle

    def _submit_all(self, requests: Sequence[GenerationRequest]) -> list[GenerationHandle]:
        """All of them or none: where the queue has no room for one, those before it would run for nobody."""
        try:
            return [self._submit(one) for one in requests]
        except BaseException:
            self.cancel()
            raise

    def _thought_request(self) -> GenerationRequest:
        think = THINK.get(self._language, THINK[Language.ENGLISH])
        return self._with_line(think, max_tokens=REASONING_TOKENS, answer_format=None)

    def _submit_candidates(self) -> list[GenerationHandle]:
        request = self._request
        first = 0 if request.seed is None else request.seed
        spread = request.temperature or SPREAD_TEMPERATURE
        others = [replace(request, temperature=spread, seed=first + number) for number in range(1, self._plan.best_of)]
        return self._submit_all([request, *others])

    def _best(self, results: Sequence[GenerationResult]) -> GenerationResult:
        """The candidate that matching supports best, then most agree on, then the model grades best itself."""
        if not results:
            return GenerationResult("", "cancelled", 0, 0, self._request.adapter)
        refusals = [result for result in results if is_not_found(result.text)]
        kept = refusals if len(refusals) * 2 > len(results) else [one for one in results if one not in refusals]
        kept = kept or list(results)
        votes = Counter(_folded(result.text) for result in kept)
        grades = {} if len(votes) == 1 or self._cancelled else self._grades(list(votes), kept)
        best = max(
            kept, key=lambda one: (self._support(one.text), votes[_folded(one.text)], grades.get(_folded(one.text), 0))
        )
        self._spent += [one for one in results if one is not best]
        return best

    def _grades(self, different: Sequence[str], results: Sequence[GenerationResult]) -> dict[str, int]:
        text_of = {_folded(result.text): result.text for result in results}
        order = GRADE.get(self._language, GRADE[Language.ENGLISH])
        handles = self._submit_all(
            [
                self._with_line(
                    f"{order}\n{defuse(text_of[key])}", max_tokens=16, answer_format=GRADES, temperature=0.0
                )
                for key in different
            ]
        )
        grades = {}
        for key, handle in zip(different, handles, strict=True):
            graded = handle.result()
            self._spent.append(graded)
            grades[key] = next((int(char) for char in graded.text if char in "12345"), 0)
        return grades

    def _with_line(self, line: str, **changes: object) -> GenerationRequest:
        """The plan's request with a line behind its question."""
        *before, last = self._plan.request.messages
        messages = (*before, replace(last, content=f"{last.content}\n{line}"))
        return replace(self._plan.request, messages=messages, **changes)  # type: ignore[arg-type]


def _folded(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
