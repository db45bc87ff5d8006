"""Training rows that a larger model writes from documents, or revises by written principles; all of it filtered."""
