"""Object detection: boxes in pictures, on any backbone with a feature pyramid."""
