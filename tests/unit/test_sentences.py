"""Sentence borders, Japanese and Latin."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.sentences import (
    split_characters,
    split_clauses,
    split_lines,
    split_sentences,
    split_words,
)
from tests.budget import examples


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("雨が降る。傘をさす！なぜ？", ["雨が降る。", "傘をさす！", "なぜ？"]),
        ("「はい。」と言った。次へ。", ["「はい。」と言った。", "次へ。"]),
        ("「はい。そうです。」彼は笑った。", ["「はい。そうです。」", "彼は笑った。"]),
        ("承認（部長。または課長。）が要る。以上。", ["承認（部長。または課長。）が要る。", "以上。"]),
        ("率は３．５％。次。", ["率は３．５％。", "次。"]),
        ("Dr. Sato agreed. He left.", ["Dr. Sato agreed. ", "He left."]),
        ("It costs 3.5 yen. Why? Because.", ["It costs 3.5 yen. ", "Why? ", "Because."]),
        ("See e.g. the list. Then go.", ["See e.g. the list. ", "Then go."]),
        ("料金は500円です。Price is 500 yen. 以上です。", ["料金は500円です。", "Price is 500 yen. ", "以上です。"]),
        ("Visit https://a.example/x?y=1 now. Done.", ["Visit https://a.example/x?y=1 now. ", "Done."]),
        ("なに！？本当。", ["なに！？", "本当。"]),
        ("", []),
    ],
)
def test_borders(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_a_bracket_that_never_closes_does_not_swallow_the_rest() -> None:
    text = "「開いたまま" + "あ" * 400 + "。次の文。最後の文。"
    assert sentences(text)[-1] == "最後の文。"


def test_characters_keep_marks_flags_families_and_crlf_together() -> None:
    for whole in ("e\u0301", "👨‍👩‍👧‍👦", "🇯🇵", "\r\n", "か\u3099"):
        assert [(f"a{whole}b")[s:e] for s, e in split_characters(f"a{whole}b")] in (
            ["a", whole, "b"],
            [f"a{whole}", "b"],  # white space goes to what stands before it
        )


@settings(max_examples=examples(150))
@given(st.text(alphabet=st.sampled_from("ab. 。」「！\n、,か\u3099e\u0301👨‍👩🇯🇵\r　1"), max_size=80))
def test_every_splitter_covers_its_input(text: str) -> None:
    for split in (split_sentences, split_lines, split_clauses, split_words, split_characters):
        spans = split(text)
        assert "".join(text[start:end] for start, end in spans) == text
        assert all(start < end for start, end in spans)
