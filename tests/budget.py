"""Budget of the property tests: the same examples each time in `make test`, many random ones in `make fuzz`."""

from __future__ import annotations

from hypothesis import settings

_USUAL = 100


def register_profiles() -> None:
    """Profiles of the suite; `--hypothesis-profile=fuzz` chooses the second."""
    settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=_USUAL)
    settings.register_profile("fuzz", derandomize=False, deadline=None, max_examples=50 * _USUAL, print_blob=True)
    settings.load_profile("repeatable")


def examples(usual: int) -> int:
    """Examples for a test that looks at `usual` of them in `make test`."""
    return usual * settings().max_examples // _USUAL
