"""Who uses which GPU's memory beside serving."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from core.tables.base import Base, created_column, id_column


class GpuLease(Base):
    """Memory that a job holds on one GPU. Void once the job no longer runs that attempt: nobody has to clean up."""

    __tablename__ = "gpu_leases"

    id: Mapped[str] = id_column("gpu")
    machine: Mapped[str] = mapped_column(String(200), index=True)
    device: Mapped[int]
    """Index among the GPUs of the machine."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    attempt: Mapped[int]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    pauses_serving: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = created_column()
