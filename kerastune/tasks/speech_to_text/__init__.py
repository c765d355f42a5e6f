"""Speech to text: the words in a recording."""
