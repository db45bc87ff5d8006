"""Routes, one file per noun."""

from api.routes import (
    adapters,
    answers,
    audit,
    builds,
    canary,
    collections,
    curated,
    datasets,
    dictionary,
    docs,
    documents,
    erasures,
    evaluations,
    health,
    index,
    jobs,
    judge,
    keys,
    openai,
    tenants,
    tuning,
)

ROUTERS = (
    health.router,
    docs.router,
    documents.router,
    collections.router,
    jobs.router,
    answers.router,
    openai.router,
    curated.router,
    datasets.router,
    builds.router,
    tuning.router,
    judge.router,
    adapters.router,
    index.router,
    canary.router,
    evaluations.router,
    keys.router,
    tenants.router,
    dictionary.router,
    erasures.router,
    audit.router,
)
"""All of them, in the order of the OpenAPI document."""

__all__ = ["ROUTERS"]
