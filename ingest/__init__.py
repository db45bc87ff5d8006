"""The write side: accept, extract, chunk, embed, index."""
