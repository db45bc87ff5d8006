"""`tsumugi backup` and `tsumugi restore`: everything that cannot be made again, and the vectors that are slow to make.

A backup knows no topology: rows by table, blobs and adapters by their digests, vectors by chunk. What one topology
wrote the other takes. The prepared base model, the broker's messages and work folders of tuning runs are not in it.
"""

from cli.backup.commands import backup, restore

__all__ = ["backup", "restore"]
