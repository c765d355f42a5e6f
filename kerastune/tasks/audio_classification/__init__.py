"""Audio classification: labels for a sound."""
