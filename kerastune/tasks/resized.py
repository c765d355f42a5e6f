"""Builds KerasHub's composed backbones, with an encoder inside, for pictures of another size."""

from typing import Any


def resized(backbone: Any, size: tuple[int, int]) -> Any:
    """Returns a backbone for pictures of another height and width, with the same values."""
    found = type(backbone).from_config(sized(backbone.get_config(), size))
    found.set_weights(backbone.get_weights())
    return found


def sized(config: Any, size: tuple[int, int]) -> Any:
    """Returns the config of a backbone, and of those inside, for pictures of another size."""
    if isinstance(config, dict):
        found = {key: sized(value, size) for key, value in config.items()}
        for key in ("image_shape", "anchor_image_size"):
            if found.get(key):
                found[key] = (*size, *list(found[key])[2:])
        return found
    return config
