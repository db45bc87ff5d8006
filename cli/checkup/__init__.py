"""What `tsumugi doctor` looks at, one file per kind of thing. A check names what is wrong and how to mend it."""

from cli.checkup.finding import BROKEN, Check, Examination, Finding, finding_of, told

__all__ = ["BROKEN", "Check", "Examination", "Finding", "finding_of", "told"]
