"""Image classification: labels or a number for an image."""
