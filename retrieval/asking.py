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
ENGLISH = frozenset(
    ("what", "which", "who", "whom", "whose", "where", "when", "why", "how", "much", "many", "please", "tell")
)


def without_asking(folded: str) -> str:
    """A folded question without its Japanese words that only ask; the same text where nothing else would be left."""
    rest = _JAPANESE.sub(" ", folded)
    return rest if any(map(str.isalnum, rest)) else folded
