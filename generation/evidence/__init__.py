"""Evidence before words: passages found become units, the units are ranked, and an answer stands on the best of them.

In: a question and the passages that search found. Out: the lines that answer it, how sure that is, and what else is said.
"""
