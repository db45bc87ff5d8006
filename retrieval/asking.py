"""Words that ask and say nothing of what is asked about: 何が, いつ, いくらですか, 教えてください, how much, which.

A question's own grammar is found in pages of frequently asked questions and weighs there against the page that answers.
Counters stay (何日 leaves 日): they say what kind of thing is wanted.
Of a file named in a question the ending says nothing either.
"""

from __future__ import annotations

import re

_COUNTER = "[年月日人名時分秒円回個枚台件%歳才社条項番階本週度泊割倍点章]|か[月所国]|種類|メートル|キロ"
_JAPANESE = re.compile(
    "|".join(
        (
            r"(?<=[^\W_])\.(?:pdf|docx?|xlsx?|pptx?|od[tsp]|csv|tsv|txt|md|html?|eml|msg|zip)(?![a-z0-9])",
            rf"何(?={_COUNTER})",
            r"何(?:で(?!す|し)|[がをにとのかも]|と?いう)?",
            r"な(?:に(?=[がをにでと])[がをにでと]|ん(?=です|でしょ|だ|の))",
            r"いつ(?:から|まで|頃|ごろ)?(?!も)",
            r"(?:誰|だれ)[がにのをと]?",
            r"どなた[がにのをと]?",
            r"どこ(?:から|まで|[にでがへのを])?",
            r"どれ(?:くらい|ぐらい|位|ほど|だけ)?",
            r"どの(?:くらい|ぐらい|位|程度|よう(?:な|に)?)?",
            r"どう(?:やって|すれば|したら|いう|いった|して|なりま?|なって)?",
            r"ど(?:ちら|んな)[がにのをへで]?",
            r"なぜ|いくら|いくつ",
            r"(?:を|が)?(?:教えて|おしえて|知りた)(?:ください|下さい|欲し|ほし|もらえ|いただけ|頂け|くれ|い)?",
            r"(?:お願い(?:し|いたし|致し)ます|すみません)",
            r"(?:て|で)(?:い|おり)?ま(?:す|した|せん)か",
            r"(?:でしょう|です|でした|ます|ました|ません|ましょう|ん?だっけ|でしたっけ|っけ)(?:か|かね)?(?=[?。!、\s]|$)",
            r"(?:でしょう|です|でした|ます|ました|ません)か",
        )
    )
)
_SPELT = """
    ねだん:値段 りょうきん:料金 てすうりょう:手数料 そうりょう:送料
    こうつうひ:交通費 けいひ:経費 でんわ:電話 ばんごう:番号 じゅうしょ:住所
    うけつけ:受付 ちゅうしゃじょう:駐車場 かいぎしつ:会議室 たんとうしゃ:担当者
    きゅうか:休暇 きゅうりょう:給料 ざんぎょう:残業 しゅっちょう:出張
    しゅくはく:宿泊 けんしゅう:研修 しんせい:申請 しめきり:締切 よやく:予約
    けいやく:契約 へんぴん:返品 しゅうり:修理 こうかん:交換 ほしょう:保証
    のうき:納期 ざいこ:在庫 みつもり:見積 せいきゅうしょ:請求書
    りょうしゅうしょ:領収書 でんち:電池 ごみぶくろ:ごみ袋
"""
"""Words of the office as people type them in kana, and as documents spell them."""
_IN_KANA = dict(pair.split(":") for pair in _SPELT.split())
_KATAKANA = {"".join(chr(ord(c) + 0x60) for c in word): word for word in _IN_KANA}
_SPELT_IN_KANA = re.compile(f"(?<![ァ-ヴー])(?:{'|'.join(_KATAKANA)})(?![ァ-ヴー])|{'|'.join(_IN_KANA)}")
ENGLISH = frozenset(
    ("what", "which", "who", "whom", "whose", "where", "when", "why", "how", "much", "many", "please", "tell")
)


def usually_spelt(folded: str) -> str:
    """A folded question with words of the office that were typed in kana as documents spell them: ねだん, ネダン."""
    return _SPELT_IN_KANA.sub(lambda match: _IN_KANA[_KATAKANA.get(match.group(), match.group())], folded)


def without_asking(folded: str) -> str:
    """A folded question without its Japanese words that only ask; the same text where nothing else would be left."""
    rest = _JAPANESE.sub(" ", folded)
    return rest if any(map(str.isalnum, rest)) else folded
