"""Text embedding: vectors of texts, learnt by contrastive training."""
