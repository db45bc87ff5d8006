import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.engines.text import Detokenizer, ShownText, StopFilter, ThoughtFilter


def decode_bytes(ids):
    return bytes(ids).decode("utf-8", errors="replace")


@given(st.text())
def test_bytes_stream_as_whole_characters_that_add_up(text):
    stream = Detokenizer(decode_bytes)
    pieces = [stream.push(byte) for byte in text.encode()]
    pieces.append(stream.finish())
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_japanese_character_is_held_until_its_last_byte():
    stream = Detokenizer(decode_bytes)
    assert [stream.push(byte) for byte in "紬".encode()] == ["", "", "紬"]


def test_an_unfinished_character_at_the_end_is_dropped():
    stream = Detokenizer(decode_bytes)
    assert [stream.push(byte) for byte in "a紬".encode()[:3]] == ["a", "", ""]
    assert stream.finish() == ""


def test_broken_bytes_do_not_hold_the_stream_up_for_ever():
    stream = Detokenizer(decode_bytes)
    shown = "".join(stream.push(0xFF) for _ in range(20))
    assert "\ufffd" in shown


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["Hello wor", "ld"], ["wor"], "Hello "),
        (["a", "b", "c", "d"], ["bcx", "cd"], "ab"),
        (["one STOP two STOP"], ["STOP"], "one "),
        (["終", "わ", "り。次"], ["終わり"], ""),
        (["no stop at al", "l"], ["allow"], "no stop at all"),
        (["aXb"], ["", "X"], "a"),
    ],
)
def test_stop_strings_cut_wherever_the_pieces_break(pieces, stops, expected):
    stream = StopFilter(stops)
    shown = "".join(stream.push(piece) for piece in pieces) + stream.finish()
    assert shown == expected


@given(st.text(alphabet="abc", max_size=30), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3))
def test_streaming_gives_what_cutting_the_whole_gives(text, stops):
    stream = StopFilter(stops)
    shown = "".join(stream.push(character) for character in text) + stream.finish()
    # The stop that is complete first ends the stream; of those complete at once, the one that began first.
    ends = sorted((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text)
    assert shown == (text[: ends[0][1]] if ends else text)


THOUGHTS = [
    ("<think>a\nb</think>\n\nYes.", "Yes.", "Yes."),
    ("\n <think></think>Yes.", "Yes.", "Yes."),
    ("Yes.", "Yes.", "Yes."),
    ("<think>a</think><think>b</think>Yes.", "Yes.", "Yes."),
    ("Yes <think>a</think>no.", "Yes no.", "Yes <think>a</think>no."),
    ("<think>never ended", "", ""),
    ("<thin> is a tag", "<thin> is a tag", "<thin> is a tag"),
    ("a <thi", "a <thi", "a <thi"),
    ("", "", ""),
]


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(("text", "anywhere", "at_the_start"), THOUGHTS)
def test_thoughts_are_left_out_wherever_the_pieces_break(
    text: str, anywhere: str, at_the_start: str, size: int
) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    for everywhere, expected in ((True, anywhere), (False, at_the_start)):
        stream = ThoughtFilter(inside=False, anywhere=everywhere)
        assert "".join(stream.push(piece) for piece in pieces) + stream.finish() == expected


def test_a_prompt_that_ends_inside_a_thought_shows_what_follows_it() -> None:
    stream = ThoughtFilter(inside=True, anywhere=True)
    assert "".join(stream.push(piece) for piece in ("The she", "lf...</th", "ink>\n", "\nAt five.")) == "At five."
    assert ThoughtFilter(inside=True, anywhere=True).push("only thoughts") == ""


def test_stop_strings_in_thoughts_stop_nothing_and_white_space_before_an_answer_is_the_templates() -> None:
    shown = ShownText(["END"], ThoughtFilter(inside=False, anywhere=True), trim=True)
    pieces = ("<think>END</think>", " ", " Yes. EN", "D no")
    assert "".join(map(shown.push, pieces)) + shown.finish() == "Yes. " and shown.stopped
    plain = ShownText([], None, trim=True)
    assert "".join(map(plain.push, (" ", " a", " b"))) + plain.finish() == "a b"
