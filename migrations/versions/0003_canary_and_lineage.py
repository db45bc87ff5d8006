"""Canaries with policies, shadow answers, lineage of rows, curated answers, calibrated judges."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from core.tables import base as tables

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "answer_failures",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("tenant_id", sa.String(length=48), nullable=False),
        sa.Column("family_id", sa.String(length=48), nullable=True),
        sa.Column("arm", sa.String(length=16), nullable=True),
        sa.Column("conversation_id", sa.String(length=100), nullable=True),
        sa.Column("adapter_version_id", sa.String(length=48), nullable=True),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("created_at", tables.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_answer_failures_tenant_id_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answer_failures")),
    )
    with op.batch_alter_table("answer_failures", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_answer_failures_created_at"), ["created_at"], unique=False)
        batch_op.create_index("ix_answer_failures_family_created", ["family_id", "created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_answer_failures_tenant_id"), ["tenant_id"], unique=False)

    op.create_table(
        "curated_answers",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("tenant_id", sa.String(length=48), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("question_key", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("groups", sa.JSON(), nullable=True),
        sa.Column("passages", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(length=120), nullable=False),
        sa.Column("created_at", tables.UtcDateTime(timezone=True), nullable=False),
        sa.Column("retired_at", tables.UtcDateTime(timezone=True), nullable=True),
        sa.Column("retired_reason", sa.String(length=200), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_curated_answers_tenant_id_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_curated_answers")),
    )
    with op.batch_alter_table("curated_answers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_curated_answers_created_at"), ["created_at"], unique=False)
        batch_op.create_index("ix_curated_answers_tenant_key", ["tenant_id", "question_key"], unique=False)

    op.create_table(
        "judge_calibrations",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("tenant_id", sa.String(length=48), nullable=False),
        sa.Column("judge", sa.String(length=200), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("created_at", tables.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_judge_calibrations_tenant_id_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judge_calibrations")),
    )
    with op.batch_alter_table("judge_calibrations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_judge_calibrations_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_judge_calibrations_judge"), ["judge"], unique=False)
        batch_op.create_index(batch_op.f("ix_judge_calibrations_tenant_id"), ["tenant_id"], unique=False)

    op.create_table(
        "canary_trials",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("tenant_id", sa.String(length=48), nullable=False),
        sa.Column("family_id", sa.String(length=48), nullable=False),
        sa.Column("alias_revision", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.String(length=48), nullable=False),
        sa.Column("champion_version_id", sa.String(length=48), nullable=True),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("slow_after_ms", sa.Double(), nullable=True),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("settled_until", tables.UtcDateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", tables.UtcDateTime(timezone=True), nullable=False),
        sa.Column("ended_at", tables.UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["family_id"],
            ["adapter_families.id"],
            name=op.f("fk_canary_trials_family_id_adapter_families"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_canary_trials_tenant_id_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_canary_trials")),
        sa.UniqueConstraint("family_id", "alias_revision", name=op.f("uq_canary_trials_family_id_alias_revision")),
    )
    with op.batch_alter_table("canary_trials", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_canary_trials_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_canary_trials_family_id"), ["family_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_canary_trials_tenant_id"), ["tenant_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_canary_trials_version_id"), ["version_id"], unique=False)

    op.create_table(
        "family_policies",
        sa.Column("family_id", sa.String(length=48), nullable=False),
        sa.Column("tenant_id", sa.String(length=48), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("updated_at", tables.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["family_id"],
            ["adapter_families.id"],
            name=op.f("fk_family_policies_family_id_adapter_families"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("family_id", name=op.f("pk_family_policies")),
    )
    with op.batch_alter_table("family_policies", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_family_policies_tenant_id"), ["tenant_id"], unique=False)

    op.create_table(
        "shadow_answers",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("tenant_id", sa.String(length=48), nullable=False),
        sa.Column("family_id", sa.String(length=48), nullable=False),
        sa.Column("version_id", sa.String(length=48), nullable=False),
        sa.Column("answer_id", sa.String(length=48), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("shadow", sa.JSON(), nullable=False),
        sa.Column("sent", sa.JSON(), nullable=False),
        sa.Column("created_at", tables.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["answer_id"], ["answers.id"], name=op.f("fk_shadow_answers_answer_id_answers"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["family_id"],
            ["adapter_families.id"],
            name=op.f("fk_shadow_answers_family_id_adapter_families"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_shadow_answers_tenant_id_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shadow_answers")),
    )
    with op.batch_alter_table("shadow_answers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_shadow_answers_answer_id"), ["answer_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_shadow_answers_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_shadow_answers_family_id"), ["family_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_shadow_answers_tenant_id"), ["tenant_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_shadow_answers_version_id"), ["version_id"], unique=False)

    op.create_table(
        "row_sources",
        sa.Column("row_id", sa.String(length=48), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("source_id", sa.String(length=48), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["row_id"], ["dataset_rows.id"], name=op.f("fk_row_sources_row_id_dataset_rows"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("row_id", "kind", "source_id", name=op.f("pk_row_sources")),
    )
    with op.batch_alter_table("row_sources", schema=None) as batch_op:
        batch_op.create_index("ix_row_sources_kind_source", ["kind", "source_id"], unique=False)

    op.create_table(
        "run_documents",
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("document_id", sa.String(length=48), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("use", sa.String(length=12), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["tuning_runs.id"], name=op.f("fk_run_documents_run_id_tuning_runs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "document_id", "generation", "use", name=op.f("pk_run_documents")),
    )
    with op.batch_alter_table("run_documents", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_run_documents_document_id"), ["document_id"], unique=False)

    op.create_table(
        "run_rows",
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("row_id", sa.String(length=48), nullable=False),
        sa.Column("part", sa.String(length=12), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["tuning_runs.id"], name=op.f("fk_run_rows_run_id_tuning_runs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "row_id", name=op.f("pk_run_rows")),
    )
    with op.batch_alter_table("run_rows", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_run_rows_row_id"), ["row_id"], unique=False)

    with op.batch_alter_table("answers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("family_id", sa.String(length=48), nullable=True))
        batch_op.add_column(sa.Column("arm", sa.String(length=16), nullable=True))
        batch_op.create_index("ix_answers_family_created", ["family_id", "created_at"], unique=False)

    with op.batch_alter_table("datasets", schema=None) as batch_op:
        batch_op.add_column(sa.Column("quality", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("datasets", schema=None) as batch_op:
        batch_op.drop_column("quality")

    with op.batch_alter_table("answers", schema=None) as batch_op:
        batch_op.drop_index("ix_answers_family_created")
        batch_op.drop_column("arm")
        batch_op.drop_column("family_id")

    with op.batch_alter_table("run_rows", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_run_rows_row_id"))

    op.drop_table("run_rows")
    with op.batch_alter_table("run_documents", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_run_documents_document_id"))

    op.drop_table("run_documents")
    with op.batch_alter_table("row_sources", schema=None) as batch_op:
        batch_op.drop_index("ix_row_sources_kind_source")

    op.drop_table("row_sources")
    with op.batch_alter_table("shadow_answers", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_shadow_answers_version_id"))
        batch_op.drop_index(batch_op.f("ix_shadow_answers_tenant_id"))
        batch_op.drop_index(batch_op.f("ix_shadow_answers_family_id"))
        batch_op.drop_index(batch_op.f("ix_shadow_answers_created_at"))
        batch_op.drop_index(batch_op.f("ix_shadow_answers_answer_id"))

    op.drop_table("shadow_answers")
    with op.batch_alter_table("family_policies", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_family_policies_tenant_id"))

    op.drop_table("family_policies")
    with op.batch_alter_table("canary_trials", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_canary_trials_version_id"))
        batch_op.drop_index(batch_op.f("ix_canary_trials_tenant_id"))
        batch_op.drop_index(batch_op.f("ix_canary_trials_family_id"))
        batch_op.drop_index(batch_op.f("ix_canary_trials_created_at"))

    op.drop_table("canary_trials")
    with op.batch_alter_table("judge_calibrations", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_judge_calibrations_tenant_id"))
        batch_op.drop_index(batch_op.f("ix_judge_calibrations_judge"))
        batch_op.drop_index(batch_op.f("ix_judge_calibrations_created_at"))

    op.drop_table("judge_calibrations")
    with op.batch_alter_table("curated_answers", schema=None) as batch_op:
        batch_op.drop_index("ix_curated_answers_tenant_key")
        batch_op.drop_index(batch_op.f("ix_curated_answers_created_at"))

    op.drop_table("curated_answers")
    with op.batch_alter_table("answer_failures", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_answer_failures_tenant_id"))
        batch_op.drop_index("ix_answer_failures_family_created")
        batch_op.drop_index(batch_op.f("ix_answer_failures_created_at"))

    op.drop_table("answer_failures")
