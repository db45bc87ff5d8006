"""How likely bytes are text of each encoding: bits to write them as its language would, fewer for what is likelier.

All readings of the same bytes are compared by the sum over their characters, so the figures are comparable whatever
share of the file is kana or ASCII, and a short file only has a smaller difference. A reading is wrong where it is full
of kanji that nobody uses, of half-width kana that cannot follow one another, or of accents inside runs of accents.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache

from ingest.half_kana import half_kana_bits
from ingest.japanese_codecs import decode_cp932, decode_euc_jp
from ingest.kanji import COMMON, EVERYDAY, KNOWN

_Cost = Callable[[str], float]
_BROKEN = 25.0
"""A byte that means nothing, or a character that no writer of the language has."""
_ASCII = 5.0
_ASCII_FREQUENT = 3.5
_HALF_KANA_GOES_ON, _HALF_KANA_STARTS = 0.3, 0.7
"""Beside what `half_kana_bits` says of the run itself."""
_KANJI_TIERS = ((EVERYDAY, 9.0), (COMMON, 11.5), (KNOWN, 14.0))
_LEVEL_1, _LEVEL_2, _VENDOR = 16.5, 19.5, 15.0
_HALF_KANA_RUN = re.compile(r"[｡-ﾟ]+")
_KANJI = r"一-鿿\ufa0e-\ufa2d"
_LATIN = r"A-Za-z@`{|}~^_\\"
_PENALTIES = (
    # a single half-width kana inside of a Latin word, or alone
    (re.compile(rf"(?<=[{_LATIN}])[｡-ﾟ](?![｡-ﾟ])|(?<![｡-ﾟ])[｡-ﾟ](?=[{_LATIN}])"), 5.0),
    (re.compile(r"(?<![｡-ﾟ(])[｡-ﾟ](?![｡-ﾟ)])"), 4.0),
    (re.compile(r"[｡-ﾟ](?=[a-z]{2})"), 5.0),
    # a single kanji inside of a Latin word
    (re.compile(rf"(?<=[a-z])[{_KANJI}](?![ぁ-ヿ々{_KANJI}])"), 6.0),
    (re.compile(rf"(?<![ぁ-ヿ々{_KANJI}])[{_KANJI}](?=[a-z])"), 6.0),
    (re.compile(r"[ぁ-ヿ一-鿿][｡-ﾟ](?![｡-ﾟ])"), 3.0),
)
_WORD = re.compile(
    rf"[ぁ-ヿ々〆{_KANJI}]{{2}}|[ｦ-ﾟ]{{2}}|[ｦ-ﾟ]\)|\([ｦ-ﾟ]"
    rf"|(?<![^\s,\"'0-9:])[ℂ-\u2bff\u3003-\u33ff％-￥{EVERYDAY}{COMMON}](?![^\s,\"'0-9:])"
)
"""Two letters of Japanese together, or one character alone in its cell, between spaces, or at a figure (9号)."""
_JAPANESE_FIRST = 12.0
"""Head start of Japanese where there is at least one word of it: it is what this service is sent."""

_WESTERN = (
    ("éèüöäßñçàóíáâêôîûåøæãõ", 6.5),
    ("ÉÈÜÖÄÑÇÀÓÍÁÂÊÔÎÛÅØÆÃÕúùëïòìœýþð", 8.5),
    ("“”‘’–—…€", 6.5),
    ("«»°´·§©®™£\xa0±²³½µ¿¡ºª•‚„", 8.0),
)
_ACCENT_RUN = re.compile(r"[^\x00-\x7f](?=[^\x00-\x7f])")
_QUOTED = re.compile(r"[“‘«„‚\xa0¿¡–—](?=[^\x00-\x7f])|[^\x00-\x7f](?=[”’»…–—\xa0€])")
_MARK_IN_WORD = re.compile(r"[a-z][¢-¦¨-³µ¶¸-¿€•][a-z]|[a-z][À-ÞŒ]|(?<![ -~])[”’](?=[A-Za-z])")
_HANGUL = frozenset(
    "이다는에의을가하고로지기사리도인나은자시한대정제라어서수일보해들아만구주부그전성상조장여있것안스적으오동공중와과게비원유"
    "신무소국방연문생위마세금선미치영실학산관경진입니습요를면품명단격합계번호담당처락송량매출및녕감배액세별"
)
_HANZI = frozenset(
    "的一是不了人我在有他这中大来上个国和也子时道说出而要于就下得可你年生自会那后能对着事其里所去行过家十用发天如然作方成者多日"
    "都三小二无同经法当起与好看学进种将还分此心前面又定见只主没公从品价单数量金额司票订货收地址电话号码联系式技术支持服务产合客户"
    "名称规格型税总這個來時說於會後對裡過發無經當與學進種將還見沒從價單數額訂貨電話號碼聯絡務產戶稱規總請謝您"
)
"""Syllables and characters that Korean and Chinese lists are full of."""
_LONE_HANGUL = re.compile(r"(?<![가-힣])[가-힣](?=[A-Za-z])")
_RARE_UTF_8 = re.compile(r"[\u0080-\u009f\u0180-\u036f\u0500-\u058f\u0640-\u065f\u06d4-\u07ff]")
"""What few files in UTF-8 are made of: IPA, modifiers, Armenian, late Arabic, Syriac. In CP932 half-width kana."""
_NO_WORD = 12.0
"""Against an alphabet of which no three letters stand together."""
_RUSSIAN = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё"
_GREEK = "αοιετσνηυρπκμλςωγδχθφβξζψάέίόήύώ"
_SHORT_LATIN_RUN = re.compile(rb"(?<![\x80-\xff])[\x8a\x8c-\x8f\x9a\x9c-\x9f\xa1-\xff]{1,2}(?![\x80-\xff])")


def best_readings(sample: bytes) -> list[tuple[float, str]]:
    """Encodings by bits, the likeliest first. Western code pages that only differ in accents are one, `western`;
    `other` stands for all alphabets that are neither that nor Cyrillic nor Greek.
    """
    japanese = {"cp932": decode_cp932(sample), "euc_jp": decode_euc_jp(sample)}
    readings = {name: japanese_bits(text) for name, text in japanese.items()}
    likelier = min(readings, key=lambda name: readings[name])
    if _WORD.search(japanese[likelier]):
        readings = {name: bits - _JAPANESE_FIRST for name, bits in readings.items()}
    unicode = sample.decode("utf-8", errors="replace")
    readings["utf-8"] = _bits(unicode, _unicode) + 6.0 * len(_LONE_HANGUL.findall(unicode))
    readings["western"] = min(_western_bits(sample.decode("cp1252", errors="replace")), _latin_bits(sample))
    for name, letters in (("koi8-r", _RUSSIAN), ("cp1251", _RUSSIAN), ("iso8859-5", _RUSSIAN), ("cp1253", _GREEK)):
        readings[name] = _alphabet_bits(sample.decode(name, errors="replace"), letters)
    readings["cp949"] = _bits(sample.decode("cp949", errors="replace"), _korean)
    readings["gb18030"] = _bits(sample.decode("gb18030", errors="replace"), _chinese)
    readings["big5"] = _bits(sample.decode("big5hkscs", errors="replace"), _taiwanese)
    readings["iso8859-5"] += 10.0  # hardly anybody writes it, and its capitals are where half-width kana are
    readings["other"] = sum(_byte_bits(byte) * n for byte, n in Counter(sample).items())
    readings["other"] += 0.0 if re.search(rb"[\xa1-\xff]{3}", sample) else _NO_WORD
    return sorted((bits, name) for name, bits in readings.items())


def japanese_bits(text: str) -> float:
    """Bits of a Japanese reading."""
    bits = _bits(text, _japanese)
    bits += sum(
        (half_kana_bits(run) + _HALF_KANA_STARTS) * n for run, n in Counter(_HALF_KANA_RUN.findall(text)).items()
    )
    return bits + sum(weight * sum(1 for _ in pattern.finditer(text)) for pattern, weight in _PENALTIES)


def wide_bits(text: str) -> float:
    """Bits of a reading as UTF-16, with the same head start where every character is Japanese of every day."""
    return japanese_bits(text) - (_JAPANESE_FIRST if is_daily(text) else 0.0)


def is_daily(text: str) -> bool:
    """Whether every character, two at least, is one of every day in Japanese or ASCII."""
    return len(text) > 1 and max(map(_japanese, text)) <= _KANJI_TIERS[-1][1]


def _bits(text: str, cost: _Cost) -> float:
    return sum(cost(character) * n for character, n in Counter(text).items())


def _ascii_bits(character: str) -> float:
    if character in "\n\r\t ,0123456789e":
        return _ASCII_FREQUENT
    return _ASCII if character >= " " and character != "\x7f" else _BROKEN


@cache
def _special() -> dict[str, float]:
    tiers = {character: bits for letters, bits in _KANJI_TIERS for character in letters}
    tiers |= dict.fromkeys("、。・ー「」（）　", 7.0) | dict.fromkeys("々〆％：／～〜－−！？【】『』〒℃￥※", 9.0)
    return (
        tiers | dict.fromkeys("①②③④⑤⑥⑦⑧⑨⑩㈱㈲№℡㎡㎏㍻ⅠⅡⅢⅣⅤ㌔㌢㍉㌘㌧㌫㍍", 9.5) | dict.fromkeys("髙﨑德濵栁ⅰⅱⅲ", 11.0)
    )


@cache
def _japanese(character: str) -> float:
    if character < "\x80":
        return _ascii_bits(character)
    if "｡" <= character <= "ﾟ":
        return _HALF_KANA_GOES_ON
    if character in _special():
        return _special()[character]
    if "ぁ" <= character <= "ん":
        return 7.0
    if "ァ" <= character <= "ヶ":
        return 7.5
    if "！" <= character <= "～":
        return 8.5
    try:
        code = character.encode("cp932")
    except UnicodeError:
        return _BROKEN if character < "一" or character > "鿿" else 22.0
    if len(code) == 1 or 0xF0 <= code[0] < 0xFA:
        return _BROKEN
    if code[0] in {0x87, 0xED, 0xEE, 0xFA, 0xFB, 0xFC}:
        return _VENDOR
    if code[0] == 0x81:
        return 9.5
    return 12.0 if code[0] < 0x88 else _LEVEL_1 if code < b"\x98\x9f" else _LEVEL_2


def _western_bits(text: str) -> float:
    runs = len(_ACCENT_RUN.findall(text)) - len(_QUOTED.findall(text))
    return _bits(text, _western) + 5.0 * max(0, runs) + 5.0 * len(_MARK_IN_WORD.findall(text))


@cache
def _western(character: str) -> float:
    if character < "\x80":
        return _ascii_bits(character)
    listed = next((bits for letters, bits in _WESTERN if character in letters), 12.0)
    return _BROKEN if character == "\ufffd" else listed


def _latin_bits(sample: bytes) -> float:
    """Any alphabet that adds a few letters to the Latin one (Polish, Czech, Turkish ...), whatever its code page."""
    high = sum(1 for byte in sample if byte > 0x7F)
    good = sum(len(run) for run in _SHORT_LATIN_RUN.findall(sample))
    low = sum(_ascii_bits(chr(byte)) * n for byte, n in Counter(sample).items() if byte < 0x80)
    return low + 8.0 * good + 14.0 * (high - good)


def _alphabet_bits(text: str, letters: str) -> float:
    """Cyrillic or Greek: by the rank of each letter, and a change of case inside a word is rare."""
    ranks = {letter: 3.2 + 3.8 * at / len(letters) for at, letter in enumerate(letters)}
    upper = {letter.upper(): bits + 0.7 for letter, bits in ranks.items()}

    def cost(character: str) -> float:
        if character < "\x80":
            return _ascii_bits(character)
        return ranks.get(character) or upper.get(character) or 12.0

    capitals = letters.upper()
    changes = re.findall(f"[{letters}](?=[{capitals}])", text)
    words = re.search(f"[{letters}]{{3}}|[{capitals}]{{3}}", text)
    return _bits(text, cost) + 4.0 * len(changes) + (0.0 if words else _NO_WORD)


@cache
def _unicode(character: str) -> float:
    """UTF-8, of whatever language: its bytes say so much of themselves that only rare characters are doubtful."""
    if character < "\x80":
        return _ascii_bits(character)
    if character < "\u0800":
        return 20.0 if _RARE_UTF_8.match(character) else 3.0 if character < "\u0100" else 6.0
    if "가" <= character <= "힣":
        return _korean(character)
    return _BROKEN if character == "\ufffd" else min(_japanese(character), 13.0)


@cache
def _korean(character: str) -> float:
    if character < "\x80":
        return _ascii_bits(character)
    if "가" <= character <= "힣":
        return 7.5 if character in _HANGUL else 10.5 if _is_of_ks_x_1001(character) else 19.0
    return _BROKEN if character == "\ufffd" else 17.0


@cache
def _chinese(character: str) -> float:
    if character < "\x80":
        return _ascii_bits(character)
    if character in _HANZI:
        return 8.5
    code = character.encode("gb18030") if character != "\ufffd" else b""
    if len(code) != 2:
        return _BROKEN
    if code[1] < 0xA1 or code[0] < 0xA1 or code[0] > 0xF7:
        return 18.0
    return 10.5 if code[0] in {0xA1, 0xA3} else 11.8 if 0xB0 <= code[0] <= 0xD7 else 16.0


@cache
def _taiwanese(character: str) -> float:
    if character < "\x80":
        return _ascii_bits(character)
    if character in _HANZI:
        return 8.5
    try:
        code = character.encode("big5")
    except UnicodeError:
        return _BROKEN
    return 10.5 if code[0] <= 0xA3 else 12.2 if code[0] <= 0xC6 else 17.0


def _byte_bits(byte: int) -> float:
    if byte < 0x80:
        return _ascii_bits(chr(byte))
    return 6.2 if byte > 0xA0 else 11.0


def _is_of_ks_x_1001(syllable: str) -> bool:
    code = syllable.encode("cp949")
    return code[0] >= 0xB0 and code[1] >= 0xA1
