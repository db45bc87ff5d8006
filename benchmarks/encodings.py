"""How many Japanese texts of known encodings are read to the last character, by mixture and by shape.

    python -m benchmarks.encodings [--count 1000] [--seed 14] [--json FILE]

Ends with 1 when one is refused or read as anything else.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.encoded_texts import EncodedText, encoded_texts
from core.errors import ExtractionFailed
from ingest.encoding import clean_text, decode_text


def outcome(text: EncodedText) -> str:
    """`right`, `refused`, or `read as ENCODING`."""
    try:
        decoded = decode_text(text.data)
    except ExtractionFailed:
        return "refused"
    return "right" if decoded.text == clean_text(text.text) else f"read as {decoded.encoding}"


def main() -> int:
    """Read them all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="texts, half of them in EUC-JP")
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    tallies: dict[str, Counter[str]] = {}
    started = time.perf_counter()
    wrong = []
    for text in encoded_texts(arguments.count, arguments.seed):
        found = outcome(text)
        for key in (f"{text.encoding}, {text.mixture}", f"{text.encoding}, {text.shape}", text.encoding):
            tallies.setdefault(key, Counter())[found] += 1
        if found != "right":
            wrong.append({"encoding": text.encoding, "outcome": found, "text": text.text[:80]})
    seconds = time.perf_counter() - started
    for key, tally in sorted(tallies.items()):
        rest = {name: n for name, n in tally.items() if name != "right"}
        print(f"{key:32} {tally['right']:5} of {tally.total():5}  {rest or ''}")
    for item in wrong[:20]:
        print(f"  {item}")
    print(f"{arguments.count - len(wrong)} of {arguments.count} right, {seconds:.1f} s")
    if arguments.json:
        summary = {"count": arguments.count, "wrong": wrong, "tallies": tallies, "seconds": round(seconds, 1)}
        arguments.json.write_text(json.dumps(summary, ensure_ascii=False, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
