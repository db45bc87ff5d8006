"""Evidence before words: passages found become units, the units are ranked, and an answer stands on the best of them.

In: a question and the passages that search found. Out: the lines that answer it, how sure that is, what else is said.
"""
