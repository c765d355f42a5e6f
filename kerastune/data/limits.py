"""What data may hold at most: data come from strangers, and nothing in them may take the machine's memory or time."""

TABLE = 2**32  # bytes of a CSV or JSON Lines file, which is read as a whole
DEPTH = 100  # folders inside each other
