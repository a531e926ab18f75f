"""`maskless demo`: the whole library in a few minutes, on any machine, from data that every Python installation carries."""
