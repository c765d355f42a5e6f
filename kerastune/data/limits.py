"""Limits on data, which are untrusted and must not exhaust the machine's memory or time."""

TABLE = 2**32  # bytes of a CSV or JSON Lines file, which is read as a whole
DEPTH = 100  # folders inside each other
