"""A task that kerastune does not have, as docs/design.md says one is added: image → a point."""
