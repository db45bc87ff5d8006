"""Background jobs. The database owns their state; `attempt` fences off workers that were thought dead.

create ---> queued <----------------- retry by request ------------------+
|  ^                                                         |
claim |  | transient error (back-off), crash, interrupted,         |
v  | handed over to another task                             |
running ---> succeeded                                          |
|-------> failed     permanent error, or a budget is spent --+
+-------> cancelled  by request -----------------------------+
"""

from core.jobs.lease import JobLease
from core.jobs.machine import JobListener
from core.jobs.store import JobStore
from core.jobs.sweep import SweepReport

__all__ = ["JobLease", "JobListener", "JobStore", "SweepReport"]
