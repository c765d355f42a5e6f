"""Causal language models: prompts and responses."""
