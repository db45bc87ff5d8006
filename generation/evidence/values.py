"""Kinds of value in a text: amounts, dates, times, telephone numbers, names. Patterns are bounded, so linear."""

from __future__ import annotations

import re

from generation.evidence.question import Wanted

_MONTH = r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
_WEEKDAY = r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)day"
VALUE: dict[Wanted, re.Pattern[str]] = {
    Wanted.MONEY: re.compile(
        r"\d[ ]?(?:万|千|億)?円|[¥$£€]\s?\d|\d[\d.,]{0,12} ?(?:yen|usd|gbp|eur|jpy|pounds?|dollars?|euros?)\b|無料|free of charge|(?<![\d.])\d{3,9}(?![\d年月日条])"
    ),
    Wanted.PERCENT: re.compile(r"\d ?(?:%|パーセント|percent|割)"),
    Wanted.DATE: re.compile(
        r"\d{1,2}月\d{1,2}日|\d{1,2}日|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}/\d{1,2}|\d{4}年|\d{1,2}月|[月火水木金土日]曜"
        rf"|\b\d{{1,2}}(?:st|nd|rd|th)? (?:of )?{_MONTH}\b|\b{_MONTH} \d{{1,2}}\b|\b{_MONTH} \d{{4}}\b|{_WEEKDAY}|月末|翌月|前日|当日|毎月|年度末"
    ),
    Wanted.TIME: re.compile(r"\d{1,2}:\d{2}|\d{1,2}時|\b\d{1,2}(?:\.\d{2})? ?[ap]\.?m\b|正午|noon|midnight"),
    Wanted.DURATION: re.compile(
        r"\d ?(?:日間|日以内|日前|営業日|日|か月|ヶ月|カ月|ヵ月|箇月|年|週間|週|時間|分|秒|泊)|\b(?:\d{1,4}|one|two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty)[ -](?:calendar |working |business |full )?(?:days?|weeks?|months?|years?|hours?|minutes?|seconds?)\b"
    ),
    Wanted.COUNT: re.compile(
        r"\d ?(?:人|名|台|個|件|回|枚|本|社|部|冊|箱|点|店|室|席|小間|セット|つ|口|組|式|pcs|units?|people|persons?|seats?|times?)|(?<![\d.])\d{1,6}(?![\d年月日円%])"
    ),
    Wanted.MEASURE: re.compile(
        r"\d ?(?:mm|cm|km|kg|mg|kw|kva|mw|hz|db|mah|wh|ml|lpm|rpm|pa|kpa|mpa|℃|°c|°|度|m|g|w|v|a|l|t|ミリ|メートル|リットル|グラム|キロ|インチ|inch(?:es)?)(?![a-z])|ip\d{2}"
    ),
    Wanted.PHONE: re.compile(
        r"\d{2,5}-\d{1,4}-\d{3,4}|内線 ?\d{2,6}|\bext(?:ension|\.)? ?\d{2,6}|\+\d{1,3}[ -]\d|\b0\d{9,10}\b|\(0\d{1,4}\)|(?<!\d)\d{4}(?!\d)"
    ),
    Wanted.MAIL: re.compile(r"[a-z0-9._+-]{1,64}@[a-z0-9-]{1,63}\.|https?://"),
    Wanted.PERSON: re.compile(
        r"点検者|講師|申請者|出席|代表|窓口|instructor|trainer|primary|present|担当|責任者|氏名|代行|承認|作成|議長|委員長|部長|課長|係長|主任|[ァ-ンー一-龥]{1,4}(?:さん|様|氏)|\b(?:mr|ms|mrs|dr)\b|manager|supervisor|chair|director|owner|lead"
    ),
    Wanted.PLACE: re.compile(
        r"棚|場所|所在|窓口|会場|[都道府県市区町村]|\d階|会議室|センター|工場|支店|本社|倉庫|営業所|公園|駅|ホール|館|号室|丁目|room|floor|building|street|road|office|branch|warehouse|centre|center|site|park|hall"
    ),
    Wanted.ARTICLE: re.compile(r"第\d{1,4}条|(?:clause|article|section) \d"),
    Wanted.CODE: re.compile(r"[a-z]{1,6}-?\d{1,6}[a-z]{0,3}|\d{1,4}-\d{1,6}"),
    Wanted.REASON: re.compile(
        r"ため|ので|から|により|によって|による|起因|原因|理由|because|due to|owing to|so that|as a result|caused|since|in order to"
    ),
    Wanted.LIST: re.compile(r"[、,・/／;；].{1,40}[、,・/／;；]|①"),
}
"""Patterns over folded text (`core.text_folding.fold`)."""


def holds(wanted: Wanted, folded: str) -> bool:
    """Whether a folded text holds a value of a kind; kinds without a pattern are held by any text."""
    pattern = VALUE.get(wanted)
    return pattern is None or pattern.search(folded) is not None


def count(wanted: Wanted, folded: str) -> int:
    """How many values of a kind a folded text holds."""
    pattern = VALUE.get(wanted)
    return 0 if pattern is None else sum(1 for _ in pattern.finditer(folded))


VERDICT = re.compile(
    r"でき|可能|不可|禁止|不要|必要|対象|除く|除き|限る|限り|ません|ない|なし|あり|許可|承諾|支給|無給|有給|\b(?:not|no|must|may|only|allowed|required|permitted|except|excluded|included|never|none)\b"
)
"""Words that say yes or no to something."""
DEFINES = re.compile(r"とは|をいう|を指す|の略|\bmeans?\b|\brefers? to\b|\bis defined|\bstands? for\b|[:：](?=.)")
"""Words that say what something means."""
