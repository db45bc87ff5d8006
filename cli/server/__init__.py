"""The processes of the server topology, a composition root each: api, ingest worker, training worker, beat."""
