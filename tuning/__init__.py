"""The training side: datasets, training, evaluation, gate."""
