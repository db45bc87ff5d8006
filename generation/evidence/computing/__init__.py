"""Calculations over the rows of tables; `generation.evidence.computed` is where they are asked for."""
