"""One GPU for serving and training: how much of its memory each may use, and who holds it now.

`share` keeps a part of the memory for serving at all times and lends the rest. `sleep` lends all of it: the generator
is sent to sleep first, questions are refused meanwhile with a time to come back, and it is woken whatever happens to
the training. A lease is a row bound to a running attempt of a job, so one whose worker died is void by itself.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog
from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from core.database import Database, WriteSession
from core.errors import InvalidInput, Postponed
from core.jobs import JobLease
from core.settings import GpuSettings
from core.tables.base import utc_now
from core.tables.gpu import GpuLease
from core.tables.jobs import Job
from core.types import JobStatus

log = structlog.stdlib.get_logger(__name__)

LOOK_AGAIN_S = 30.0
_WORST_WAIT_S = 600.0
_FIRST_GUESS_S = 60.0
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=index,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this machine."""

    index: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class GpuGrant:
    """What a training may use: environment variables for its processes, and the share of each GPU's memory."""

    gpus: tuple[Gpu, ...]
    memory_bytes: int
    """Of each."""

    @property
    def gpu(self) -> Gpu:
        """The first, or only one."""
        return self.gpus[0]

    @property
    def environment(self) -> dict[str, str]:
        """Makes these GPUs the only visible ones, and tells their share to `tuning.child.cap_gpu_memory`."""
        share = self.memory_bytes / max(gpu.memory_bytes for gpu in self.gpus)
        visible = ",".join(str(gpu.index) for gpu in self.gpus)
        return {"CUDA_VISIBLE_DEVICES": visible, MEMORY_SHARE_VARIABLE: f"{share:.4f}"}


MEMORY_SHARE_VARIABLE = "TSUMUGI_GPU_MEMORY_SHARE"
"""Read by the training process, which bounds itself to that share of the GPU's memory."""


class Sleeper(Protocol):
    """A generator that can give its memory back."""

    def sleep(self) -> None:
        """Give the memory back; no answers until `wake`. Raises Unavailable."""
        ...

    def wake(self) -> None:
        """Take the memory again and answer. Raises Unavailable."""
        ...


class GpuLeases:
    """Lends the GPUs of this machine."""

    def __init__(
        self,
        db: Database,
        settings: GpuSettings,
        *,
        sleeper: Sleeper | None = None,
        probe: Callable[[], Sequence[Gpu]] | None = None,
        machine: str | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._db = db
        self._settings = settings
        self._sleeper = sleeper
        self._probe = probe or gpus_of_this_machine
        self._machine = machine or socket.gethostname()
        self._clock = clock

    @contextmanager
    def held(
        self,
        lease: JobLease,
        needed_bytes: int | None = None,
        wanted_bytes: int | None = None,
        *,
        count: int = 1,
    ) -> Iterator[GpuGrant | None]:
        """Hold a GPU, or `count` of them, for the length of the block; None on a machine without one.

        All numbers are of each GPU. needed_bytes: below it the work is refused. wanted_bytes: lent, or all that the GPU
        ever lends where that is less. Without it that is `needed_bytes`, or all, where neither is given.

        Raises:
            InvalidInput: `gpu_too_small`: fewer than `count` GPUs here will ever lend as much.
            Postponed: `gpu_busy`: others hold it now.
        """
        usable = self.usable()
        if not usable:
            yield None
            return
        pauses = self._pauses
        grant = self._take(lease, usable, needed_bytes, wanted_bytes or needed_bytes, pauses=pauses, count=count)
        try:
            if pauses and self._sleeper is not None:
                self._sleeper.sleep()
            yield grant
        finally:
            try:
                if pauses and self._sleeper is not None:
                    self._sleeper.wake()
            finally:
                self._give_back(lease)

    def most_lendable(self) -> int | None:
        """Bytes of the largest lease that any GPU here will ever give; None without a GPU."""
        return max((self._lendable(gpu, pauses=self._pauses) for gpu in self.usable()), default=None)

    @property
    def _pauses(self) -> bool:
        return self._settings.while_training == "sleep" and self._sleeper is not None

    def usable(self) -> list[Gpu]:
        """GPUs of this machine that training may use."""
        return [gpu for gpu in self._probe() if not self._settings.devices or gpu.index in self._settings.devices]

    def _take(
        self,
        lease: JobLease,
        usable: Sequence[Gpu],
        needed: int | None,
        asked: int | None,
        *,
        pauses: bool,
        count: int,
    ) -> GpuGrant:
        lendable = {gpu.index: self._lendable(gpu, pauses=pauses) for gpu in usable}
        most = sorted(lendable.values(), reverse=True)[:count][-1] if count <= len(usable) else 0
        if not most or (needed is not None and needed > most):
            needed = needed or 0
            raise InvalidInput(
                f"the training needs about {needed / 2**30:.1f} GiB of memory on {count} GPU(s); "
                f"{most / 2**30:.1f} GiB can be lent",
                code="gpu_too_small",
                extra={"needed_bytes": needed, "lendable_bytes": most},
            )
        with lease.write() as session:
            _lock(session, self._machine)
            session.execute(delete(GpuLease).where(GpuLease.job_id == lease.job_id))
            held = dict.fromkeys(lendable, 0)
            for row in live_leases(session):
                if row.machine == self._machine and row.device in held:
                    held[row.device] += row.memory_bytes
            # The emptiest first; a lease that pauses serving has its GPUs to itself, and so has one on several.
            ordered = sorted(usable, key=lambda one: lendable[one.index] - held[one.index], reverse=True)
            chosen = tuple(ordered[:count])
            alone = pauses or asked is None or count > 1
            least = min(lendable[gpu.index] for gpu in chosen)
            wanted = min(asked, least) if asked is not None and not pauses else least
            for gpu in chosen:
                if wanted > lendable[gpu.index] - held[gpu.index] or (held[gpu.index] and alone):
                    detail = f"{held[gpu.index] / 2**30:.1f} GiB of GPU {gpu.index} are lent already"
                    raise Postponed(detail, code="gpu_busy", extra={"retry_after_s": int(LOOK_AGAIN_S)})
                session.add(
                    GpuLease(
                        machine=self._machine,
                        device=gpu.index,
                        job_id=lease.job_id,
                        attempt=lease.attempt,
                        memory_bytes=wanted,
                        pauses_serving=pauses,
                    )
                )
        devices = [gpu.index for gpu in chosen]
        log.info("gpu.lent", devices=devices, gib=round(wanted / 2**30, 1), pauses_serving=pauses)
        return GpuGrant(chosen, wanted)

    def _lendable(self, gpu: Gpu, *, pauses: bool) -> int:
        return int(gpu.memory_bytes * (1.0 if pauses else 1.0 - self._settings.serving_share))

    def _give_back(self, lease: JobLease) -> None:
        """In a transaction of its own: the job may have ended, or be owned by another attempt."""
        with self._db.write() as session:
            session.execute(delete(GpuLease).where(GpuLease.job_id == lease.job_id, GpuLease.attempt == lease.attempt))


def live_leases(session: Session) -> list[GpuLease]:
    """Leases whose job still runs the attempt that took them."""
    query = (
        select(GpuLease)
        .join(Job, Job.id == GpuLease.job_id)
        .where(Job.status == JobStatus.RUNNING.value, Job.attempt == GpuLease.attempt)
    )
    return list(session.scalars(query))


def serving_pause(session: Session, now: datetime) -> float | None:
    """Seconds after which a refused question may be asked again, while a lease pauses serving; else None.

    Half done after a minute means about a minute more: the estimate follows the training's own progress.
    """
    waits = []
    for row in live_leases(session):
        if row.pauses_serving:
            job = session.get_one(Job, row.job_id)
            spent = max(0.0, (now - row.created_at).total_seconds())
            done = job.progress
            waits.append(spent * (1 - done) / done if done > 0.02 else _FIRST_GUESS_S)
    return min(_WORST_WAIT_S, max(1.0, *waits)) if waits else None


def gpus_of_this_machine() -> list[Gpu]:
    """As the driver lists them; none without a driver."""
    try:
        listed = subprocess.run(  # noqa: S603 - a fixed command of the driver
            _NVIDIA_SMI, capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in listed.splitlines():
        index, _, mebibytes = line.partition(",")
        if index.strip().isdigit() and mebibytes.strip().isdigit():
            found.append(Gpu(int(index), int(mebibytes) * 2**20))
    return found


def _lock(session: WriteSession, machine: str) -> None:
    """Two workers of a machine must not lend the same memory. SQLite has one writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256(f"gpu:{machine}".encode()).digest()[:8], "big", signed=True)
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
