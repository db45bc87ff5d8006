"""What `tsumugi doctor` looks at, one file per kind of thing. A check names what is wrong and how to mend it."""

from cli.checkup.finding import Check, Examination, Finding

__all__ = ["Check", "Examination", "Finding"]
