"""The places a model goes: one folder a target. Packaged as kerastune.targets."""
