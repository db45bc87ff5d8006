"""Evaluation: a tenant's own questions with known answers, asked of the service as it serves."""
