"""The shapes in which training rows occur, each turned into one canonical row.

Canonical: {"messages": [{"role", "content"}, ...]} ending with the assistant; with "passages": [{"text", "title"?}]
when the row is grounded; with "chosen" and "rejected" (strings) instead of the last turn for preference pairs; with
"label" (bool) for unpaired judgements. A turn of the assistant may carry "tool_calls": [{"name", "arguments"}], and
turns of the role "tool" with the results follow it. A passage may name the "document_id" it is from. An Alpaca
`input` is a passage: it is trained in the shape that is served.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

MAX_TEXT_CHARS = 32_000
"""Longest row, all texts together. A longer one cannot fit a context window of 8,192 tokens in any language."""
MAX_TURNS = 64
MAX_PASSAGES = 20

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "agent": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
_CALL_ROLES = frozenset({"function_call", "tool_call"})
"""Roles under which ShareGPT files write a call as the turn's text."""
TURN_KEYS = ("messages", "conversations", "conversation", "utterances")
_ROLE_KEYS = ("role", "from", "name")
_TEXT_KEYS = ("content", "value", "text")
Json = Mapping[str, Any]


class DatasetFormat(StrEnum):
    """What a file holds; one file holds one."""

    ALPACA = "alpaca"
    SHAREGPT = "sharegpt"
    MESSAGES = "messages"
    PROMPT_COMPLETION = "prompt_completion"
    PREFERENCE = "preference"
    UNPAIRED = "unpaired"

    @property
    def supervised(self) -> bool:
        """Whether its rows show an answer to imitate (SFT)."""
        return self not in {DatasetFormat.PREFERENCE, DatasetFormat.UNPAIRED}


class RowRefused(Exception):
    """A row that cannot be used; `code` is stable, `detail` says which field."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def detect(row: Json) -> DatasetFormat | None:
    """Format of a row by its keys; None when it is of no known shape."""
    keys = set(row)
    turns = keys & set(TURN_KEYS)
    if {"chosen", "rejected"} <= keys:
        return DatasetFormat.PREFERENCE
    if keys & {"label", "kto_tag"} and (turns or "completion" in keys):
        return DatasetFormat.UNPAIRED
    if "messages" in keys:
        return DatasetFormat.MESSAGES
    if turns:
        return DatasetFormat.SHAREGPT
    if "instruction" in keys:
        return DatasetFormat.ALPACA
    if {"prompt", "completion"} <= keys:
        return DatasetFormat.PROMPT_COMPLETION
    return None


def canonical(row: Json, shape: DatasetFormat) -> dict[str, Any]:
    """The row in canonical form.

    Raises:
        RowRefused: with the code of what is wrong.
    """
    result = _READERS[shape](row)
    passages = _passages(row.get("passages"))
    if passages:
        result["passages"] = result.get("passages", []) + passages
    size = sum(len(turn["content"]) + len(str(turn.get("tool_calls", ""))) for turn in result["messages"])
    size += sum(len(passage["text"]) for passage in result.get("passages", []))
    size += sum(len(result.get(key, "")) for key in ("chosen", "rejected"))
    if size > MAX_TEXT_CHARS:
        raise RowRefused("too_long", f"{size} characters; at most {MAX_TEXT_CHARS} are taken")
    return result


def _text(value: Any, field: str, *, optional: bool = False) -> str:
    if value is None and optional:
        return ""
    if value is None:
        raise RowRefused("missing_field", f"'{field}' is missing")
    if not isinstance(value, str):
        raise RowRefused("not_text", f"'{field}' is {type(value).__name__}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowRefused("bad_unicode", f"'{field}' holds half of a surrogate pair") from error
    if "\0" in value:
        raise RowRefused("bad_unicode", f"'{field}' holds a NUL character")
    text = value.strip()
    if not text and not optional:
        raise RowRefused("empty_text", f"'{field}' is empty")
    return text


def _passages(value: Any) -> list[dict[str, str]]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MAX_PASSAGES:
        raise RowRefused("bad_passages", f"'passages' must be a list of at most {MAX_PASSAGES}")
    result = []
    for number, given in enumerate(value):
        item = {"text": given} if isinstance(given, str) else given
        if not isinstance(item, dict):
            raise RowRefused("bad_passages", f"'passages[{number}]' is neither a string nor an object")
        passage = {"text": _text(item.get("text"), f"passages[{number}].text")}
        title = _text(item.get("title"), f"passages[{number}].title", optional=True)
        document = _text(item.get("document_id"), f"passages[{number}].document_id", optional=True)[:48]
        result.append(passage | ({"title": title} if title else {}) | ({"document_id": document} if document else {}))
    return result


def _turn(item: Any, field: str, *, last: bool = False) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise RowRefused("wrong_turn", f"'{field}' is not an object with a role and a text")
    role_key = next((key for key in _ROLE_KEYS if isinstance(item.get(key), str)), None)
    text_key = next((key for key in _TEXT_KEYS if key in item), None)
    calls = item.get("tool_calls") or ([item["function_call"]] if item.get("function_call") else [])
    if role_key is None or (text_key is None and not calls):
        raise RowRefused("missing_field", f"'{field}' needs a role and a text")
    given = item[role_key].strip().lower()
    if given not in _ROLES:
        raise RowRefused("unknown_role", f"'{field}.{role_key}' is {str(item[role_key])[:40]!r}")
    role = _ROLES[given]
    given_text = _joined(item.get(text_key) if text_key else None, f"{field}.{text_key}")
    text = _text(given_text, f"{field}.{text_key}", optional=bool(calls) or role == "system")
    if item.get("weight") == 0 and role == "assistant" and last:
        raise RowRefused(
            "not_to_be_trained", f"'{field}' has the weight 0, and it is the answer that would be trained on"
        )
    if given in _CALL_ROLES and not calls:
        calls, text = _written_calls(text, field), ""
    turn: dict[str, Any] = {"role": role, "content": text}
    if calls:
        if role != "assistant":
            raise RowRefused("wrong_turn", f"'{field}': only the assistant calls tools")
        turn["tool_calls"] = _calls(calls, field)
    return turn


def _joined(value: Any, field: str) -> Any:
    """A content of text parts as one string; what else a content may be is left to `_text`."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        given = part if isinstance(part, str) else None
        if isinstance(part, dict) and part.get("type", "text") in {"text", "input_text", "output_text"}:
            given = part.get("text")
        if not isinstance(given, str):
            kind = str(part.get("type"))[:40] if isinstance(part, dict) else type(part).__name__
            raise RowRefused("not_text", f"'{field}' has a part that is not text: {kind}")
        texts.append(given)
    return "\n".join(texts)


def _one_system(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """System turns at the head as one; empty ones say nothing and go."""
    head = 0
    while head < len(turns) and turns[head]["role"] == "system":
        head += 1
    texts = [turn["content"] for turn in turns[:head] if turn["content"]]
    rest = [turn for turn in turns[head:] if turn["role"] != "system" or turn["content"]]
    return [*([{"role": "system", "content": "\n\n".join(texts)}] if texts else []), *rest]


def _written_calls(text: str, field: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowRefused("bad_tool_call", f"'{field}' holds no JSON of a call") from error
    return value if isinstance(value, list) else [value]


def _calls(calls: Any, field: str) -> list[dict[str, Any]]:
    """Calls as {"name", "arguments" (object)}; OpenAI's `function` wrapper and arguments as a string are opened."""
    if not isinstance(calls, list) or len(calls) > MAX_TURNS:
        raise RowRefused("bad_tool_call", f"'{field}.tool_calls' is not a list of at most {MAX_TURNS}")
    result = []
    for given in calls:
        call = given.get("function", given) if isinstance(given, dict) else None
        if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"].strip():
            raise RowRefused("bad_tool_call", f"a call in '{field}' has no name")
        arguments = call.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError) as error:
                raise RowRefused("bad_tool_call", f"arguments of a call in '{field}' are not JSON") from error
        if not isinstance(arguments, dict):
            raise RowRefused("bad_tool_call", f"arguments of a call in '{field}' are not an object")
        _text(json.dumps(arguments, ensure_ascii=False), f"{field}.arguments")
        result.append({"name": _text(call["name"], f"{field}.name"), "arguments": arguments})
    return result


def _turns(row: Json, *, last: str) -> list[dict[str, Any]]:
    """Turns of a row: an optional system turn, then user and assistant by turns, ending with `last`."""
    key = next(key for key in TURN_KEYS if key in row)
    items = row[key]
    if not isinstance(items, list):
        raise RowRefused("wrong_turn", f"'{key}' is not a list")
    if not items:
        raise RowRefused("empty_text", f"'{key}' is empty")
    if len(items) > MAX_TURNS:
        raise RowRefused("too_long", f"'{key}' has {len(items)} turns; at most {MAX_TURNS} are taken")
    turns = [_turn(item, f"{key}[{number}]", last=number == len(items) - 1) for number, item in enumerate(items)]
    turns = _one_system(turns)
    system = _text(row.get("system"), "system", optional=True)
    if system and not (turns and turns[0]["role"] == "system"):
        turns.insert(0, {"role": "system", "content": system})
    return _ordered(turns, key, last=last)


def _ordered(turns: list[dict[str, Any]], field: str, *, last: str) -> list[dict[str, Any]]:
    spoken = turns[1:] if turns and turns[0]["role"] == "system" else turns
    if not spoken or spoken[-1]["role"] != last or "tool_calls" in spoken[-1]:
        code = "not_ending_with_assistant" if last == "assistant" else "not_ending_with_user"
        raise RowRefused(code, f"'{field}' must end with a turn of the {last}")
    allowed = {"user"}
    for number, turn in enumerate(spoken):
        if turn["role"] not in allowed:
            raise RowRefused("wrong_order", f"'{field}': turn {number + 1} is by the {turn['role']}")
        if turn["role"] == "tool":
            allowed = {"tool", "assistant"}
        elif "tool_calls" in turn:
            allowed = {"tool"}
        else:
            allowed = {"assistant"} if turn["role"] == "user" else {"user"}
    return turns


def _alpaca(row: Json) -> dict[str, Any]:
    turns = []
    system = _text(row.get("system"), "system", optional=True)
    if system:
        turns.append({"role": "system", "content": system})
    history = row.get("history") or []
    if not isinstance(history, list):
        raise RowRefused("wrong_turn", "'history' is not a list of [question, answer]")
    for number, pair in enumerate(history):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowRefused("wrong_turn", f"'history[{number}]' is not [question, answer]")
        turns.append({"role": "user", "content": _text(pair[0], f"history[{number}][0]")})
        turns.append({"role": "assistant", "content": _text(pair[1], f"history[{number}][1]")})
    turns.append({"role": "user", "content": _text(row.get("instruction"), "instruction")})
    turns.append({"role": "assistant", "content": _text(row.get("output"), "output")})
    context = _text(row.get("input"), "input", optional=True)
    return {"messages": turns} | ({"passages": [{"text": context}]} if context else {})


def _messages(row: Json) -> dict[str, Any]:
    return {"messages": _turns(row, last="assistant")}


def _prompt(row: Json) -> list[dict[str, Any]]:
    """Everything before the answer: turns, or `prompt` as turns or text, or Alpaca's `instruction`."""
    if any(key in row for key in TURN_KEYS):
        return _turns(row, last="user")
    if isinstance(row.get("prompt"), list):
        return _turns({"messages": row["prompt"], "system": row.get("system")}, last="user")
    key = "prompt" if "prompt" in row else "instruction"
    turns = []
    system = _text(row.get("system"), "system", optional=True)
    if system:
        turns.append({"role": "system", "content": system})
    return [*turns, {"role": "user", "content": _text(row.get(key), key)}]


def _reply(value: Any, field: str) -> str:
    """An answer given as a string, as one turn, or as a list holding one turn."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        turn = _turn(value, field)
        if turn["role"] != "assistant":
            raise RowRefused("unknown_role", f"'{field}' is a turn of the {turn['role']}")
        if "tool_calls" in turn:
            raise RowRefused("bad_tool_call", f"'{field}' is a call of a tool, not an answer")
        return str(turn["content"])
    return _text(value, field)


def _prompt_completion(row: Json) -> dict[str, Any]:
    reply = _reply(row.get("completion"), "completion")
    return {"messages": [*_prompt(row), {"role": "assistant", "content": reply}]}


def _preference(row: Json) -> dict[str, Any]:
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if "prompt" not in row and isinstance(chosen, list) and isinstance(rejected, list) and len(chosen) > 1:
        return _implicit_preference(chosen, rejected)
    pair = {"chosen": _reply(chosen, "chosen"), "rejected": _reply(rejected, "rejected")}
    if pair["chosen"] == pair["rejected"]:
        raise RowRefused("no_preference", "'chosen' and 'rejected' are the same")
    result: dict[str, Any] = {"messages": _prompt(row), **pair}
    context = _text(row.get("input"), "input", optional=True)
    return result | ({"passages": [{"text": context}]} if context else {})


def _implicit_preference(chosen: Sequence[Any], rejected: Sequence[Any]) -> dict[str, Any]:
    """Both sides as whole conversations (Anthropic HH): they must agree up to the last turn."""
    good = _turns({"messages": list(chosen)}, last="assistant")
    bad = _turns({"messages": list(rejected)}, last="assistant")
    if good[:-1] != bad[:-1]:
        raise RowRefused("wrong_order", "'chosen' and 'rejected' differ before their last turn")
    if good[-1] == bad[-1]:
        raise RowRefused("no_preference", "'chosen' and 'rejected' are the same")
    return {"messages": good[:-1], "chosen": good[-1]["content"], "rejected": bad[-1]["content"]}


def _unpaired(row: Json) -> dict[str, Any]:
    label = row.get("label", row.get("kto_tag"))
    if not isinstance(label, bool):
        raise RowRefused("not_boolean", "'label' must be true or false")
    base = _prompt_completion(row) if "completion" in row else _messages(row)
    return base | {"label": label}


_READERS = {
    DatasetFormat.ALPACA: _alpaca,
    DatasetFormat.SHAREGPT: _messages,
    DatasetFormat.MESSAGES: _messages,
    DatasetFormat.PROMPT_COMPLETION: _prompt_completion,
    DatasetFormat.PREFERENCE: _preference,
    DatasetFormat.UNPAIRED: _unpaired,
}
