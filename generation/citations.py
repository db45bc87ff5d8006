"""From `[n]` in an answer to citation objects with spans at both ends.

The model says which passage it used; whether that passage really carries the claim is decided here by matching, never
by the model. A claim that is not found stays `verified: false` with the most similar sentence as its quote: no
threshold is lowered until something fits (that is how peers end up with right answers and wrong citations).

Matching compares tokens, not characters: numbers with their separators removed, codes, Latin and katakana words, and
single other Japanese characters, all NFKC and casefolded. So "10" is never found inside "2010", nor テスト inside
コンテスト; full-width equals half-width, and line breaks inside a Japanese sentence do not matter.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.editions import edition_label
from core.language import passage_language
from core.types import Citation, Passage

MARKER = re.compile(r"[\[［]\s*([0-9０-９]{1,2}(?:\s*[,、，]\s*[0-9０-９]{1,2})*)\s*[\]］]")
_TOKEN = re.compile(
    r"(?P<code>(?<![A-Za-z0-9])[A-Za-z]{1,12}[-_]?[0-9][A-Za-z0-9]{0,12}(?:[-_/][A-Za-z0-9]{1,12}){0,4})"
    r"|(?P<number>[0-9０-９]+(?:[.,．，:/：／][0-9０-９]+)*)"
    r"|(?P<word>[^\W\d_\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f々]+)"
    r"|(?P<katakana>[\u30a1-\u30fa\u30fc\uff66-\uff9f]{2,})"
    r"|(?P<cjk>[\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f々])"
)
_SENTENCE_END = re.compile(r"[。！？!?｡]+[」』）)】]*|\.(?=\s|$)|\n+")
_STOP_WORDS = frozenset(
    """
    a an and are as at be by for from has have in is it its of on or our that the their this to was were will with
    you your
    """.split()  # noqa: SIM905
)
_FUNCTION_KANA = frozenset("はがをにでとのもへやかねよなだですまるしたいれさせてく")
SUPPORT_SHARE = 0.6
"""Share of a claim's informative characters that one or two neighbouring sentences must hold, when the claim is not
there word for word. Every number of the claim must be there whatever the share."""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    end: int
    kind: str

    @property
    def weight(self) -> int:
        """Informative characters: function words and inflection say nothing about support."""
        if self.kind == "cjk":
            return 0 if self.text in _FUNCTION_KANA else 1
        if self.kind == "word":
            return 0 if self.text in _STOP_WORDS else len(self.text)
        return len(self.text)


def _tokens(text: str) -> list[_Token]:
    result = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "word"
        folded = unicodedata.normalize("NFKC", match.group()).casefold()
        if kind == "number":
            folded = folded.replace(",", "")
        elif kind == "code":  # "DM-30" is not in "DM-30P", and is the same as "DM30"
            folded, kind = "".join(c for c in folded if c.isalnum()), "number"
        result.append(_Token(folded, match.start(), match.end(), kind))
    return result


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if text[start : match.end()].strip():
            yield start, match.end()
        start = match.end()
    if text[start:].strip():
        yield start, len(text)


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _occurrences(needle: Sequence[_Token], hay: Sequence[_Token]) -> Iterator[tuple[int, int]]:
    words = [token.text for token in needle]
    for first in range(len(hay) - len(words) + 1):
        if all(hay[first + offset].text == word for offset, word in enumerate(words)):
            yield hay[first].start, hay[first + len(words) - 1].end


def _widen(text: str, start: int, end: int) -> tuple[int, int]:
    """Grow a match to the whole sentences it lies in: evidence is read in context."""
    spans = [span for span in _sentences(text) if span[0] < end and start < span[1]]
    return _trim(text, spans[0][0], spans[-1][1]) if spans else (start, end)


def find_support(claim: str, source: str, *, question: str = "") -> tuple[int, int, bool]:
    """Where `source` carries `claim`: (start, end, verified) in code points of `source`, whole sentences.

    verified: the claim stands there token for token, or one to two neighbouring sentences hold all of its numbers and
    at least SUPPORT_SHARE of its informative characters. Otherwise the most similar sentence, unverified. Among equal
    places the one sharing most with the question wins.
    """
    needle, hay = _tokens(claim), _tokens(source)
    asked = {token.text for token in _tokens(question) if token.weight}

    def affinity(start: int, end: int) -> int:
        return len(asked & {token.text for token in hay if start <= token.start < end})

    if needle and sum(token.weight for token in needle):
        places = [_widen(source, start, end) for start, end in _occurrences(needle, hay)]
        if places:
            start, end = max(places, key=lambda place: affinity(*place))
            return start, end, True
    spans = list(_sentences(source))
    windows = spans + [(one[0], two[1]) for one, two in itertools.pairwise(spans)]
    numbers = {token.text for token in needle if token.kind == "number"}
    informative = [token for token in needle if token.weight]
    total = sum(token.weight for token in informative)
    best: tuple[tuple[float, ...], tuple[int, int], bool] | None = None
    for start, end in windows:
        present = {token.text for token in hay if start <= token.start < end}
        share = sum(token.weight for token in informative if token.text in present) / total if total else 0.0
        verified = total > 0 and numbers <= present and share >= SUPPORT_SHARE
        key = (float(verified), share, float(affinity(start, end)), float(start - end))
        if best is None or key > best[0]:
            best = (key, _trim(source, start, end), verified)
    if best is None:
        return 0, len(source), False
    return best[1][0], best[1][1], best[2]


def cited_stretches(answer: str) -> Iterator[tuple[int, int, list[int]]]:
    """(start, end, passage numbers) of each cited stretch: the sentence, or part of one, before its markers."""
    previous = 0
    matches = list(MARKER.finditer(answer))
    position = 0
    while position < len(matches):
        first = matches[position]
        numbers: list[int] = []
        end_of_run = first.start()
        while position < len(matches) and not answer[end_of_run : matches[position].start()].strip():
            run = unicodedata.normalize("NFKC", matches[position].group(1))
            numbers += [int(number) for number in re.findall(r"\d+", run)]
            end_of_run = matches[position].end()
            position += 1
        stretch = answer[previous : first.start()]
        spans = list(_sentences(stretch))
        start = previous + spans[-1][0] if spans else previous
        start, end = _trim(answer, start, first.start())
        if end > start:
            yield start, end, list(dict.fromkeys(numbers))
        previous = end_of_run


def cite(answer: str, passages: Sequence[Passage], *, question: str = "") -> list[Citation]:
    """Citations of an answer, in the order of its claims.

    passages: in prompt order, so that marker [1] is passages[0]; numbers beyond them are dropped. An answer without
    any marker still gets citations for sentences that stand word for word in a passage: those are facts of matching.
    """
    citations = []
    for start, end, numbers in cited_stretches(answer):
        for number in numbers:
            if 1 <= number <= len(passages):
                passage = passages[number - 1]
                citations.append(cite_claim(answer[start:end], (start, end), number, passage, question))
    if not citations and not MARKER.search(answer):
        citations = list(_unmarked(answer, passages, question))
    return citations


def informative_weight(text: str) -> int:
    """Informative characters of a text: what function words leave."""
    return sum(token.weight for token in _tokens(text))


def cite_claim(claim: str, place: tuple[int, int], number: int, passage: Passage, question: str) -> Citation:
    """Citation of a claim that stands at `place` in the answer, with its support in passage `number`."""
    from_, to, verified = find_support(claim, passage.text, question=question)
    return Citation(
        index=number,
        answer_start=place[0],
        answer_end=place[1],
        document_id=passage.document_id,
        generation=passage.generation,
        filename=passage.filename,
        page=passage.page_at(passage.start + from_),
        start=passage.start + from_,
        end=passage.start + to,
        quote=passage.text[from_:to],
        verified=verified,
        edition=passage_edition(passage),
    )


def passage_edition(passage: Passage) -> str | None:
    """Which edition a passage is of, in its own language; None where its document tells none."""
    return None if passage.edition is None else edition_label(passage.edition, passage_language(passage.text))


def _unmarked(answer: str, passages: Sequence[Passage], question: str) -> Iterator[Citation]:
    for span in _sentences(answer):
        start, end = _trim(answer, *span)
        claim = _tokens(answer[start:end])
        if sum(token.weight for token in claim) < 2:
            continue
        for number, passage in enumerate(passages, start=1):
            if next(_occurrences(claim, _tokens(passage.text)), None):
                yield cite_claim(answer[start:end], (start, end), number, passage, question)
                break
