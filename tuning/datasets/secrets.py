"""Secrets and personal data in training rows, found by shape and, where the shape has one, by its check digit.

A flag, not a verdict: an adapter learns what it is shown, so a person has to look before a run does. What was found is
shown masked, for a report travels further than the row.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

_PHONE = r"(?<![\d-])(?:\+\d{1,3}[- ]?)?(?:0\d{1,4}-\d{1,4}-\d{3,4}|\(?[2-9]\d{2}\)?[- ]\d{3}-\d{4})(?![\d-])"
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("private_key", re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")),
    ("aws_access_key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("github_token", re.compile(r"\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{30,}")),
    ("slack_token", re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}")),
    ("google_api_key", re.compile(r"\bAIza[0-9A-Za-z_-]{35}")),
    ("provider_key", re.compile(r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{24,}")),
    ("json_web_token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")),
    ("password", re.compile(r"(?i)(?:password|passwd|secret|パスワード|暗証番号)\s*(?:[:=]|は)\s*['\"]?([!-~]{6,})")),
    ("url_credentials", re.compile(r"\b[a-z][a-z0-9+.-]{0,30}://[^/\s:@]++:[^/\s:@]++@")),
    ("email", re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}\.[A-Za-z]{2,}\b")),
    ("phone", re.compile(_PHONE)),
    ("card_number", re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])")),
    ("my_number", re.compile(r"(?<![\d-])(?<!\d )\d{4}[ -]?\d{4}[ -]?\d{4}(?![\d-])(?! \d)")),
    ("postal_address", re.compile(r"〒\s?\d{3}-?\d{4}")),
)  # fmt: skip
_RESERVED_MAIL = re.compile(r"@(?:[\w-]+\.)*(?:example(?:\.\w+)+|test|invalid|localhost)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that looks private; `masked` shows its first and last characters."""

    kind: str
    masked: str


def find_private(text: str) -> Iterator[Finding]:
    """Findings of a text, full-width forms included; each value once."""
    plain = unicodedata.normalize("NFKC", text).replace("‐", "-").replace("−", "-").replace("–", "-")
    seen: set[str] = set()
    for kind, pattern in _PATTERNS:
        for match in pattern.finditer(plain):
            value = match.group(match.lastindex or 0)
            if value in seen or not _holds(kind, value):
                continue
            seen.add(value)
            yield Finding(kind, _masked(value))


def _holds(kind: str, value: str) -> bool:
    digits = [int(char) for char in value if char.isdigit()]
    if kind == "card_number":
        return _luhn(digits) and len(set(digits)) > 1
    if kind == "my_number":
        return _my_number(digits)
    if kind == "email":
        return not _RESERVED_MAIL.search(value)
    return True


def _luhn(digits: list[int]) -> bool:
    total = 0
    for position, digit in enumerate(reversed(digits)):
        doubled = digit * 2 if position % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def _my_number(digits: list[int]) -> bool:
    """The check digit of Japan's 12-digit individual number (ordinance of 2014, article 5)."""
    if len(digits) != 12:
        return False
    weighted = sum(
        digit * (place + 1 if place <= 6 else place - 5) for place, digit in enumerate(reversed(digits[:11]), start=1)
    )
    remainder = weighted % 11
    return digits[11] == (0 if remainder <= 1 else 11 - remainder)


def _masked(value: str) -> str:
    return value[:2] + "*" * min(8, max(1, len(value) - 4)) + value[-2:] if len(value) > 6 else "*" * len(value)
