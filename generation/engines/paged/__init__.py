"""The decode loop for GPUs: paged keys and values, recorded steps, adapters in stacked slots."""
