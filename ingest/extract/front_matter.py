"""Front matter of Markdown (YAML or TOML): keys with their values, and what the keys are called in Japanese.

The keys are English by convention, whatever the document's language: who reads a Japanese page asks for its 所管部署 or
施行日, not for `owner` or `effective_date`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCES = {"---": ("---", "..."), "+++": ("+++",)}
_KEY = re.compile(r"([^\s:=#\[\]{}\"'-][^:=\n]{0,80}?)\s{0,20}[:=](?:\s|\Z)")
_MAX_LINES = 500
_JAPANESE = re.compile(r"[\u3041-\u30ff\u3400-\u9fff]")
_OFFICE = re.compile(r"[部課室局係]\Z|本部|グループ|チーム|センター|委員会|事務局|事業所|支店")
_WHO = frozenset({"owner", "owners", "maintainer", "maintainers"})
_NAMES = {
    name: keys.split(",")
    for name, keys in {
        "タイトル": "title",
        "所管部署": "department,dept,division,team,owning team,owner team",
        "作成者": "author,authors,creator,created by,written by",
        "作成日": "date,created,created at,creation date,date created",
        "更新日": "updated,updated at,last updated,lastmod,last modified,modified,revised,revision date",
        "施行日": "effective date,effective,effective from,valid from,in force from,applies from",
        "有効期限": "valid until,valid to,expires,expires at,expiry,expiry date,expiration date",
        "公開日": "published,published at,publish date,pubdate,release date",
        "見直し日": "review date,next review,next review date,review by",
        "版": "version,edition",
        "改訂": "revision,rev",
        "状態": "status,state,draft",
        "分類": "category,categories,type,kind",
        "タグ": "tags,tag,keywords",
        "確認者": "reviewer,reviewers,reviewed by",
        "承認者": "approver,approvers,approved by",
        "概要": "description,summary,abstract",
        "文書番号": "id,doc id,document id,document number,doc number,doc no,number",
        "連絡先": "contact,contacts,email,mail",
        "対象者": "audience,applies to",
        "適用範囲": "scope",
        "機密区分": "classification,confidentiality,security",
        "言語": "lang,language",
    }.items()
}
_NAME_OF = {key: name for name, keys in _NAMES.items() for key in keys}


def read_front_matter(text: str) -> tuple[list[tuple[str, str]], str]:
    """Keys and values (one level, and lists of it), and the text below; no pairs where none opens the text."""
    lines = text.split("\n", _MAX_LINES + 1)
    closing = _FENCES.get(lines[0].rstrip())
    if closing is None:
        return [], text
    for number, line in enumerate(lines[1:], start=1):
        if line.rstrip() in closing:
            found = list(_pairs(lines[1:number]))
            return found, "\n".join(lines[number + 1 :]) if found else text
    return [], text


def shown_key(key: str, value: str, *, japanese: bool) -> str:
    """`owner / 所管部署` where the document is Japanese and the key one of the usual ones; else the key."""
    if not japanese:
        return key
    plain = re.sub(r"[_-]", " ", key.rpartition(" / ")[2]).strip().casefold()
    name = ("所管部署" if _OFFICE.search(value) else "担当者") if plain in _WHO else _NAME_OF.get(plain)
    return key if name is None else f"{key} / {name}"


def is_japanese(text: str) -> bool:
    """Whether kana or kanji stand in a text."""
    return _JAPANESE.search(text) is not None


def _pairs(lines: list[str]) -> Iterator[tuple[str, str]]:
    """`key: value`; a list or a folded text below its key is the key's value; a key below another is joined to it."""
    key, values, parent = "", [], ""
    for line in lines:
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        indented = line[:1].isspace()
        found = None if words.startswith("- ") else _KEY.match(words)
        if found is None:
            values.append(_value(words.removeprefix("- ")))
            continue
        if key and any(values):
            yield key, ", ".join(filter(None, values))
        name = _value(found.group(1))
        if not indented:
            parent = name
        key = f"{parent} / {name}" if indented and parent else name
        values = [_value(words[found.end() :])]
    if key and any(values):
        yield key, ", ".join(filter(None, values))


def _value(text: str) -> str:
    """Without quotes and the brackets of a list, a comment behind it or the mark of a folded text."""
    text = text.strip()
    if text[:1] in {'"', "'"} and text.find(text[0], 1) > 0:
        return text[1 : text.find(text[0], 1)]
    text = text.partition(" #")[0].rstrip()
    if text in {"|", ">", "|-", ">-"}:
        return ""
    if text.startswith("[") and text.endswith("]"):
        return ", ".join(_value(item) for item in text[1:-1].split(",") if item.strip())
    return text
