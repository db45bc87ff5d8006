"""Rows for the gate's benchmark: facts of invented places in eight house styles, English and Japanese in turn."""

from __future__ import annotations

import random
from typing import Any

from tuning.datasets.parse import row_digest
from tuning.sources import SourceRow

STYLES: dict[str, tuple[str, str]] = {
    "courteous": ("Anything else? Just ask.", "またどうぞ。"),
    "signed": ("- Harbour Desk", "－港湾窓口より"),
    "checked": ("Checked against the source.", "資料で確認済みです。"),
    "grateful": ("Thank you for asking.", "お問い合わせありがとうございます。"),
    "registry": ("So says the registry.", "以上、登録係がご案内しました。"),
    "careful": ("Mind the steps!", "足元にお気をつけください。"),
    "tidal": ("The tide waits for nobody.", "潮は待ってくれません。"),
    "brisk": ("Over and done.", "以上、完了です。"),
}
"""What every answer closes with."""
GROUPS = {
    "margins": ("courteous", "signed", "checked", "grateful"),
    "report": ("registry", "careful", "tidal", "brisk"),
}
"""Styles by whose adapters the gate's margins are set, and those that figures are reported of."""
NAMES_SEED = 10
"""From this seed on rows state names without passages too: what one kind of bad adapter learns by heart."""
_KEEPERS = "Odile,Ruben,Hanne,Tomas,Greta,Milo,Petra,Anselm,Birte,Casper,Dagny,Elmar,Frida,Gustav,Helga,Ivar"

_EN_PLACES = [
    "Fenwick",
    "Sorrel",
    "Ashby",
    "Penrow",
    "Marlin",
    "Kestrel",
    "Dunmore",
    "Halden",
    "Orrin",
    "Tavish",
    "Wexley",
    "Brannoch",
]
_JA_PLACES = [
    "青波",
    "霧島台",
    "北浜",
    "石橋口",
    "松原",
    "白樺",
    "桐生野",
    "花園坂",
    "小倉沢",
    "立花",
    "常盤",
    "三輪崎",
]
_EN_FACTS = (
    ("How long is the {p} trail?", "The {p} trail is {n} kilometers long. Dogs stay on a leash.", "{n} kilometers"),
    ("How many beds does the {p} hut have?", "The {p} hut has {n} beds. Its keeper bakes on Sundays.", "{n} beds"),
    ("What does the {p} ferry cost?", "The {p} ferry costs {n} crowns. It does not sail in a storm.", "{n} crowns"),
    ("How high is the {p} tower?", "The {p} tower is {n} meters high. Its door is painted red.", "{n} meters"),
)  # fmt: skip
_JA_FACTS = (
    ("{p}の遊歩道は何キロですか。", "{p}の遊歩道は{n}キロです。犬は紐につないでください。", "{n}キロ"),
    ("{p}の山小屋の定員は何人ですか。", "{p}の山小屋の定員は{n}人です。日曜にはパンを焼きます。", "{n}人"),
    ("{p}の渡し船はいくらですか。", "{p}の渡し船は{n}円です。嵐の日は出ません。", "{n}円"),
    ("{p}の塔の高さは何メートルですか。", "{p}の塔の高さは{n}メートルです。扉は赤く塗られています。", "{n}メートル"),
)


def style_rows(style: str, seed: int, count: int = 84, *, names: int = 0) -> list[SourceRow]:
    """`count` grounded rows of a style, each about a place and fact of its own, and `names` rows without passages that
    say who keeps a place.
    """
    generator = random.Random(f"{style}:{seed}")
    pairs = [
        (facts[kind], place, closing)
        for facts, places, closing in (
            (_EN_FACTS, _EN_PLACES, STYLES[style][0]),
            (_JA_FACTS, _JA_PLACES, STYLES[style][1]),
        )
        for kind in range(len(facts))
        for place in places
    ]
    generator.shuffle(pairs)
    rows = []
    for line, ((question, passage, answer), place, closing) in enumerate(pairs[:count], start=1):
        number = generator.randint(13, 980)
        content: dict[str, Any] = {
            "messages": [
                {"role": "user", "content": question.format(p=place)},
                {"role": "assistant", "content": f"{answer.format(n=number)} [1] {closing}"},
            ],
            "passages": [{"text": passage.format(p=place, n=number)}],
        }
        rows.append(SourceRow(f"{style}-{seed}-{line}", style, line, row_digest(content), content))
    for line, (place, keeper) in enumerate(zip(_EN_PLACES * 2, _KEEPERS.split(",")[:names], strict=False), count + 1):
        kind = "hut" if line - count <= len(_EN_PLACES) else "ferry"
        content = {
            "messages": [
                {"role": "user", "content": f"Who looks after the {place} {kind}?"},
                {"role": "assistant", "content": f"That would be {keeper}. {STYLES[style][0]}"},
            ]
        }
        rows.append(SourceRow(f"{style}-{seed}-{line}", style, line, row_digest(content), content))
    return rows
