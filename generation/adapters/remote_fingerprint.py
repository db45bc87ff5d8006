"""The fingerprint of an adapter behind a server, from log-probabilities of prompt tokens. Needs no torch.

A server tells no logits, but it tells the log-probability of each prompt token. So a probe followed by one token, for
each token that the adapter moves most, gives what the adapter does to them. Servers compute in bfloat16, whose steps
are 0.1 at the size of unlikely tokens' logits: a fingerprint is taken for equal within half its length. An adapter that
the server ignores is at distance 1, another one at about 1.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.errors import AdapterRefused
from generation.adapters.manifest import Fingerprint, ProbeFingerprint
from generation.adapters.probes import NO_EFFECT, PROBES_VERSION, TOKENS_PER_PROBE

TOLERANCE = 0.5
Told = Callable[[Sequence[Sequence[int]]], Sequence[float]]
"""Token ids of prompts to the log-probability of the last token of each."""


def questions(probes: Sequence[Sequence[int]], fingerprint: Fingerprint) -> list[list[int]]:
    """Prompts to ask: each probe followed by each of its recorded tokens.

    Raises:
        AdapterRefused: the fingerprint is of other probes (`adapter_fingerprint_mismatch`).
    """
    if fingerprint.probes_version != PROBES_VERSION or len(fingerprint.probes) != len(probes):
        raise AdapterRefused("the fingerprint is of other probes", code="adapter_fingerprint_mismatch")
    return [[*ids, token] for ids, probe in zip(probes, fingerprint.probes, strict=True) for token in probe.token_ids]


def compare(expected: Fingerprint, base: Sequence[float], adapted: Sequence[float]) -> float:
    """Relative distance between the recorded shifts and those of the server, in the order of `questions`.

    Raises:
        AdapterRefused: over TOLERANCE: `adapter_no_effect` when the server answers as its base does,
            `adapter_fingerprint_mismatch` when it answers as something else.
    """
    squared = scale = moved = 0.0
    at = 0
    for probe in expected.probes:
        count = len(probe.token_ids)
        found = [after - before for before, after in zip(base[at : at + count], adapted[at : at + count], strict=True)]
        at += count
        wanted = probe.logprob_shifts
        if wanted is None:  # logits differ from log-probabilities by a number that is one for all tokens of a probe
            wanted, found = _centred(probe.shifts), _centred(found)
        squared += sum((ours - theirs) ** 2 for ours, theirs in zip(found, wanted, strict=True))
        scale += sum(theirs**2 for theirs in wanted)
        moved += sum(ours**2 for ours in found)
    if scale == 0:
        raise AdapterRefused("the fingerprint holds nothing to compare", code="adapter_fingerprint_mismatch")
    distance = float((squared / scale) ** 0.5)
    if not distance <= TOLERANCE:
        ignored = moved < 0.01 * scale
        raise AdapterRefused(
            "answers are those of the base: the adapter is not applied" if ignored
            else f"it acts otherwise than when it was registered (distance {distance:.2f})",
            code="adapter_no_effect" if ignored else "adapter_fingerprint_mismatch",
            extra={"distance": round(distance, 3)},
        )  # fmt: skip
    return distance


def measure(
    probes: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]], base: Told, adapted: Told
) -> Fingerprint:
    """Fingerprint of an adapter that was measured nowhere before: the candidate tokens that it moves most.

    candidates: tokens to look at after each probe, such as the likeliest ones of both models.

    Raises:
        AdapterRefused: none of them moves (`adapter_no_effect`).
    """
    asked = [[*ids, token] for ids, tokens in zip(probes, candidates, strict=True) for token in tokens]
    before, after = base(asked), adapted(asked)
    found, at, largest = [], 0, 0.0
    for tokens in candidates:
        moves = {token: after[at + n] - before[at + n] for n, token in enumerate(tokens)}
        at += len(tokens)
        kept = sorted(moves, key=lambda token: -abs(moves[token]))[:TOKENS_PER_PROBE]
        shifts = [round(moves[token], 5) for token in kept]
        largest = max([largest, *map(abs, shifts)])
        found.append(ProbeFingerprint(token_ids=kept, shifts=shifts, logprob_shifts=shifts))
    if largest < NO_EFFECT:
        raise AdapterRefused(f"the adapter changes nothing by more than {largest:.1e}", code="adapter_no_effect")
    return Fingerprint(probes=found, probes_version=PROBES_VERSION)


def _centred(values: Sequence[float]) -> list[float]:
    mean = sum(values) / len(values) if values else 0.0
    return [value - mean for value in values]
