"""What a reader of a document should know of how it was read: derived from its `quality`, here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_COUNTED: Final[Mapping[str, str]] = {
    "replaced_characters": "characters whose bytes mean nothing are U+FFFD",
    "formula_without_value": "formulas have no stored value; open the file in its program, save it and upload it again",
    "hidden_left_out": "characters of hidden text are left out",
    "struck_left_out": "characters of struck text are left out",
    "deleted_left_out": "characters of deleted text are left out",
    "headers_left_out": "page headers are left out",
    "hidden_sheets": "sheets are hidden; they are read and marked",
    "hidden_rows": "rows are hidden; they are read and marked",
    "hidden_columns": "columns are hidden; they are read and marked",
    "hidden_slides": "slides are hidden",
    "pages_not_read": "pages show something that was not read",
    "pages_failed": "pages could not be read",
    "sheets_failed": "sheets could not be read",
    "shapes_failed": "shapes could not be read",
}
"""Code, which is the key in `quality`, and what its count is of. A list there is named and counted."""
_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class DocumentWarning:
    """`code` is stable; `count` says how many of what `detail` says."""

    code: str
    detail: str
    count: int | None = None


def document_warnings(quality: Mapping[str, Any]) -> list[DocumentWarning]:
    """The warnings of a document, how its bytes were read first."""
    warnings = []
    guess = quality.get("encoding_guessed")
    if isinstance(guess, Mapping):
        other = guess.get("alternative")
        detail = f"taken for {guess.get('encoding')}" + (f"; {other} is the next likely" if other else "")
        detail += "; give `encoding` with the upload where the text is wrong"
        warnings.append(DocumentWarning("encoding_guessed", detail))
    for code, what in _COUNTED.items():
        found = quality.get(code)
        named = ""
        if isinstance(found, list):
            shown = ", ".join(str(item) for item in found[:_MOST_NAMED])
            named = f" ({shown}{', ...' if len(found) > _MOST_NAMED else ''})"
            found = len(found)
        if isinstance(found, int) and found > 0:
            warnings.append(DocumentWarning(code, what + named, found))
    attachments = quality.get("attachments")
    lost = [item for item in attachments if _is_lost(item)] if isinstance(attachments, list) else []
    if lost:
        names = ", ".join(f"{item.get('filename') or item.get('name')}: {item['error']}" for item in lost[:_MOST_NAMED])
        warnings.append(DocumentWarning("attachments_not_read", f"attachments are not read ({names})", len(lost)))
    return warnings


def _is_lost(attachment: Any) -> bool:
    error = attachment.get("error") if isinstance(attachment, Mapping) else None
    return error not in {None, "no_text", "empty_file"}
