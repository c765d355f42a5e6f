"""Text embedding: vectors of texts, learnt by contrast."""
