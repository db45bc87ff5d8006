"""SQL tables, one file per noun. Every row belongs to a tenant from the start. Migrations are in `migrations/`."""

from core.tables.adapters import AdapterAlias, AdapterFamily, AdapterVersion, AliasEvent
from core.tables.answers import Answer, Feedback
from core.tables.base import Base
from core.tables.builds import DatasetBuild, DatasetBuildStep
from core.tables.canary import AnswerFailure, CanaryTrial, FamilyPolicy, ShadowAnswer
from core.tables.datasets import Dataset, DatasetRow
from core.tables.dictionaries import TenantDictionary
from core.tables.documents import ChunkRow, Collection, Document, DocumentGeneration, DocumentGroup, DocumentValue
from core.tables.erasures import ErasedDocument, Erasure
from core.tables.evaluations import EvaluationOutcome, EvaluationRun, EvaluationSet
from core.tables.gpu import GpuLease
from core.tables.jobs import Job, OutboxMessage
from core.tables.lineage import CuratedAnswer, JudgeCalibration, RowSource, RunDocument, RunRow
from core.tables.operations import (
    AuditEntry,
    Calibration,
    EvidenceCalibration,
    IdempotencyRecord,
    IndexContent,
    IndexVersion,
)
from core.tables.tenancy import ApiKey, Tenant
from core.tables.tuning import Schedule, TuningRun

__all__ = [
    "AdapterAlias",
    "AdapterFamily",
    "AdapterVersion",
    "AliasEvent",
    "Answer",
    "AnswerFailure",
    "ApiKey",
    "AuditEntry",
    "Base",
    "Calibration",
    "CanaryTrial",
    "ChunkRow",
    "Collection",
    "CuratedAnswer",
    "Dataset",
    "DatasetBuild",
    "DatasetBuildStep",
    "DatasetRow",
    "Document",
    "DocumentGeneration",
    "DocumentGroup",
    "DocumentValue",
    "ErasedDocument",
    "Erasure",
    "EvaluationOutcome",
    "EvaluationRun",
    "EvaluationSet",
    "EvidenceCalibration",
    "FamilyPolicy",
    "Feedback",
    "GpuLease",
    "IdempotencyRecord",
    "IndexContent",
    "IndexVersion",
    "Job",
    "JudgeCalibration",
    "OutboxMessage",
    "RowSource",
    "RunDocument",
    "RunRow",
    "Schedule",
    "ShadowAnswer",
    "Tenant",
    "TenantDictionary",
    "TuningRun",
]
