"""How the shipped starter adapter's rows are made: `python -m tuning.starter candidates`, then `... rows`."""
