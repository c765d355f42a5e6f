"""Anomaly detection: which pictures are unlike the good ones, and where."""
