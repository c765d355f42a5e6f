"""Image embedding: vectors of images, learnt by contrastive training."""
