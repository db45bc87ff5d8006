"""Chinese forms of kanji that an OCR model trained on both takes for the Japanese ones they look like.

Each pair is a form that CP932 lacks, and the Japanese form: no Japanese writer typed the first. Only forms that can
hardly be told apart in print are listed; those that look different are read right.
"""

from __future__ import annotations

_PAIRS = (
    "查査别別户戸內内吳呉强強录録说説說説彥彦晚晩步歩每毎频頻涉渉值値卽即单単净浄删刪层層脑脳吕呂换換减減压圧团団圆円"
    "图図场場报報处処备備变変头頭姬姫对対带帯帐帳师師应応异異彻徹择択摇揺样様桥橋济済渐漸涩渋满満热熱爱愛环環确確离離"
    "种種积積稳穏类類约約级級纸紙组組细細终終结結统統续続维維罗羅职職联聯肃粛艺芸营営虑慮补補见見规規视視览覧觉覚计計"
    "订訂认認讨討让譲记記许許设設评評证証试試诚誠话話该該详詳语語误誤请請调調谈談谢謝负負责責货貨质質购購贵貴费費资資"
    "车車转転轮輪软軟载載较較输輸边辺达達过過运運还還进進连連迟遅适適选選邮郵针針钟鐘钢鋼钱銭铁鉄锁鎖错錯键鍵门門问問"
    "间間队隊阶階际際陆陸险険难難页頁项項须須预預领領题題额額风風飞飛馆館驱駆验験鱼魚鸟鳥黃黄齐斉龙龍脫脱稅税銳鋭閱閲"
    "兑兌產産緣縁錄録剝剥塡填頰頬蔣蒋旣既槪概溉漑戶戸徵徴揭掲渴渇"
)
_TABLE = str.maketrans(dict(zip(_PAIRS[::2], _PAIRS[1::2], strict=True)))


def as_japanese(text: str) -> str:
    """The text with Chinese forms as Japanese ones, and a bracket closed in the width that it was opened in."""
    text = text.translate(_TABLE)
    if text.count("（") > text.count("）") and text.count(")") > text.count("("):
        text = text.replace(")", "）", text.count("（") - text.count("）"))
    elif text.count("）") > text.count("（") and text.count("(") > text.count(")"):
        text = text.replace("(", "（", text.count("）") - text.count("（"))
    return text
