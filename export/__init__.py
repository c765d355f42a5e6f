"""Deployment targets, one folder each. Packaged as kerastune.targets."""
