"""Shipped questions over neutral passages, composed from invented places: as many as a margin needs, always the same.

The hand-written probes are too few to show that a tenth was not lost. Each composed probe shows two short passages on
two places of different kinds, three facts of five each, one fact a sentence. It asks for one of the facts, or for one
of the two that are not told.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_SEED = 17


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of place. `facts`: (sentence, question, answer) with {p} for the place, {v} for the value; `values`: what
    {v} is drawn from, a range for numbers or names.
    """

    place: str
    facts: tuple[tuple[str, str, str], ...]
    values: tuple[tuple[int, int] | str, ...]


_NAMES = {
    "en": "Fenwick,Sorrel,Ashby,Penrow,Marlin,Kestrel,Dunmore,Halden,Orrin,Tavish,Wexley,Brannoch,Ledra,Corwen,Tolland,"
    "Ystrad,Quarne,Belmoor,Skelwith,Anvil",
    "ja": "汐波,霧ヶ丘,北浜,石橋口,松原,楡原,桐生野,花園坂,小倉沢,立花,常盤,三輪崎,千鳥,竹ノ内,鶴見沢,朝霧,早瀬,"
    "雲居,榎町,若草",
}
_PEOPLE = {
    "en": "Odile Farr,Ruben Task,Ida Moll,Peer Lund,Hanne Voss,Tomas Reed,Greta Sund,Milo Hart",
    "ja": "大沢恵,近藤健,三好千夏,堀内誠,宮下葵,野口亮,浅田遥,坂口修",
}
_DAYS = {"en": "Monday,Tuesday,Wednesday,Thursday,Friday", "ja": "月曜日,火曜日,水曜日,木曜日,金曜日"}
_COLOURS = {"en": "red,green,blue,white,yellow", "ja": "赤,緑,青,白,黄色"}
_KINDS: dict[str, tuple[_Kind, ...]] = {
    "en": (
        _Kind(
            "{p} lighthouse",
            (
                ("The {p} is {v} meters high.", "How high is the {p}?", "{v} meters"),
                ("The {p} was lit in {v}.", "In which year was the {p} lit?", "{v}"),
                ("The keeper of the {p} is {v}.", "Who is the keeper of the {p}?", "{v}"),
                ("The {p} is open to visitors on {v}.", "On which day is the {p} open to visitors?", "{v}"),
                ("The door of the {p} is {v}.", "Which colour is the door of the {p}?", "{v}"),
            ),
            ((13, 94), (1802, 1989), "people", "days", "colours"),
        ),
        _Kind(
            "{p} ferry",
            (
                ("The {p} costs {v} crowns.", "What does the {p} cost?", "{v} crowns"),
                ("The {p} carries {v} passengers.", "How many passengers does the {p} carry?", "{v} passengers"),
                ("The captain of the {p} is {v}.", "Who is the captain of the {p}?", "{v}"),
                ("The {p} does not sail on {v}.", "On which day does the {p} not sail?", "{v}"),
                ("The hull of the {p} is {v}.", "Which colour is the hull of the {p}?", "{v}"),
            ),
            ((4, 89), (24, 380), "people", "days", "colours"),
        ),
        _Kind(
            "{p} hut",
            (
                ("The {p} has {v} beds.", "How many beds does the {p} have?", "{v} beds"),
                ("The {p} lies at {v} meters.", "At which height does the {p} lie?", "{v} meters"),
                ("The warden of the {p} is {v}.", "Who is the warden of the {p}?", "{v}"),
                ("The {p} bakes bread on {v}.", "On which day does the {p} bake bread?", "{v}"),
                ("The roof of the {p} is {v}.", "Which colour is the roof of the {p}?", "{v}"),
            ),
            ((6, 72), (640, 2890), "people", "days", "colours"),
        ),
        _Kind(
            "{p} library",
            (
                ("The {p} lends {v} books at a time.", "How many books does the {p} lend at a time?", "{v} books"),
                ("The {p} has {v} seats.", "How many seats does the {p} have?", "{v} seats"),
                ("The head of the {p} is {v}.", "Who is the head of the {p}?", "{v}"),
                ("The {p} is closed on {v}.", "On which day is the {p} closed?", "{v}"),
                ("The cards of the {p} are {v}.", "Which colour are the cards of the {p}?", "{v}"),
            ),
            ((3, 29), (31, 420), "people", "days", "colours"),
        ),
    ),
    "ja": (
        _Kind(
            "{p}灯台",
            (
                ("{p}の高さは{v}メートルです。", "{p}の高さは何メートルですか。", "{v}メートル"),
                ("{p}は{v}年に点灯しました。", "{p}は何年に点灯しましたか。", "{v}年"),
                ("{p}の管理人は{v}です。", "{p}の管理人は誰ですか。", "{v}"),
                ("{p}の見学日は{v}です。", "{p}の見学日は何曜日ですか。", "{v}"),
                ("{p}の扉は{v}です。", "{p}の扉は何色ですか。", "{v}"),
            ),
            ((13, 94), (1802, 1989), "people", "days", "colours"),
        ),
        _Kind(
            "{p}渡船",
            (
                ("{p}の運賃は{v}円です。", "{p}の運賃はいくらですか。", "{v}円"),
                ("{p}の定員は{v}人です。", "{p}の定員は何人ですか。", "{v}人"),
                ("{p}の船長は{v}です。", "{p}の船長は誰ですか。", "{v}"),
                ("{p}の運休日は{v}です。", "{p}の運休日は何曜日ですか。", "{v}"),
                ("{p}の船体は{v}です。", "{p}の船体は何色ですか。", "{v}"),
            ),
            ((110, 980), (24, 380), "people", "days", "colours"),
        ),
        _Kind(
            "{p}山荘",
            (
                ("{p}の寝台は{v}台です。", "{p}の寝台は何台ですか。", "{v}台"),
                ("{p}の標高は{v}メートルです。", "{p}の標高は何メートルですか。", "{v}メートル"),
                ("{p}の主人は{v}です。", "{p}の主人は誰ですか。", "{v}"),
                ("{p}がパンを焼くのは{v}です。", "{p}がパンを焼くのは何曜日ですか。", "{v}"),
                ("{p}の屋根は{v}です。", "{p}の屋根は何色ですか。", "{v}"),
            ),
            ((6, 72), (640, 2890), "people", "days", "colours"),
        ),
        _Kind(
            "{p}図書館",
            (
                ("{p}では一度に{v}冊まで借りられます。", "{p}では一度に何冊まで借りられますか。", "{v}冊"),
                ("{p}の座席は{v}席です。", "{p}の座席は何席ですか。", "{v}席"),
                ("{p}の館長は{v}です。", "{p}の館長は誰ですか。", "{v}"),
                ("{p}の休館日は{v}です。", "{p}の休館日は何曜日ですか。", "{v}"),
                ("{p}の利用カードは{v}です。", "{p}の利用カードは何色ですか。", "{v}"),
            ),
            ((3, 29), (31, 420), "people", "days", "colours"),
        ),
    ),
}
_SHOWN = 3
"""Facts that a passage tells; the other two are what it can be asked for in vain."""


def composed_probes(*, unanswerable: bool) -> Iterator[dict[str, Any]]:
    """Probes in the form of the written ones, languages in turn, without end to speak of (1,600 of either kind).

    Order and content are the same in every run.
    """
    queues = [_probes(language, unanswerable=unanswerable) for language in ("en", "ja")]
    for pair in zip(*queues, strict=True):
        yield from pair


def _probes(language: str, *, unanswerable: bool) -> Iterator[dict[str, Any]]:
    generator = random.Random(f"{_SEED}:{language}:{unanswerable}")
    kinds, names = _KINDS[language], _NAMES[language].split(",")
    asked = [
        (name, kind, fact, turn)
        for name in names
        for kind in range(len(kinds))
        for fact in range(len(kinds[0].facts))
        for turn in range(2)
    ]
    generator.shuffle(asked)
    for number, (name, at, fact, _) in enumerate(asked):
        other = generator.choice([index for index in range(len(kinds)) if index != at])
        neighbour = generator.choice([one for one in names if one != name])
        text, values = _passage(language, kinds[at], name, generator, fact, shown=not unanswerable)
        question, answer = kinds[at].facts[fact][1:]
        told = answer.format(v=values[fact]) if fact in values else None
        beside = _passage(language, kinds[other], neighbour, generator, None, shown=True)[0]
        while told is not None and told in beside:  # the same day or colour: another draw has another
            beside = _passage(language, kinds[other], neighbour, generator, None, shown=True)[0]
        passages = [{"text": text}, {"text": beside}]
        place = generator.randrange(2)
        if place:
            passages.reverse()
        full = kinds[at].place.format(p=name)
        probe: dict[str, Any] = {
            "id": f"{language}-{'without' if unanswerable else 'with'}-{number:03}",
            "passages": passages,
            "question": question.format(p=full),
        }
        if unanswerable:
            yield probe | {"unanswerable": True}
        else:
            yield probe | {"expected": [[str(told), values[fact]]], "gold": [place + 1]}


def _passage(
    language: str, kind: _Kind, name: str, generator: random.Random, fact: int | None, *, shown: bool
) -> tuple[str, dict[int, str]]:
    """Three sentences about a place, with the asked fact among them or not; and the values by fact."""
    others = [at for at in range(len(kind.facts)) if at != fact]
    told = generator.sample(others, _SHOWN - 1 if fact is not None and shown else _SHOWN)
    if fact is not None and shown:
        told.append(fact)
    generator.shuffle(told)
    values = {at: _value(language, kind.values[at], generator) for at in told}
    place = kind.place.format(p=name)
    lines = [kind.facts[at][0].format(p=place, v=values[at]) for at in told]
    return (" " if language == "en" else "").join(lines), values


def _value(language: str, source: tuple[int, int] | str, generator: random.Random) -> str:
    if isinstance(source, tuple):
        return str(generator.randint(*source))
    words = {"people": _PEOPLE, "days": _DAYS, "colours": _COLOURS}[source][language]
    return generator.choice(words.split(","))
