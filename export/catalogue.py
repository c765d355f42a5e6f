"""Names the product in a photo by the nearest vectors of a catalogue, or says that it is unknown. Needs only numpy.

catalogue.npz has the vectors of photos [m, D] (float32, or int8 with a float32 scale each), the number of each photo's
product int32 [m], and the products' names as JSON. manifest.json has the threshold under "extras", "catalogue".
"""

import json

import numpy as np

FILE = "catalogue.npz"


def opened(folder):
    """Returns the products' names, the number of each photo's product, and the photos' vectors of length 1."""
    with np.load(folder / FILE, allow_pickle=False) as stored:
        names = json.loads(stored["names"].tobytes())
        return names, stored["products"], unit(stored["vectors"] * stored["scales"][:, None])


def looking(folder, threshold):
    """Returns a function of (outputs, number of products) that looks a vector up: -> known, names with cosines."""
    names, products, vectors = opened(folder)

    def look(outputs, top):
        near = vectors @ unit(outputs["embeddings"][None].astype(np.float32))[0]
        best = np.full(len(names), -np.inf, np.float32)
        np.maximum.at(best, products, near)
        order = np.argsort(-best, kind="stable")[:top]
        return bool(best[order[0]] >= threshold), [(names[i], float(best[i])) for i in order]

    return look


def answering(folder, manifest):
    """Returns a function of (outputs, number of products) that says in lines which product it is."""
    threshold = manifest["extras"]["catalogue"]["threshold"]
    look = looking(folder, threshold)
    return lambda outputs, top: lines(look(outputs, top), threshold)


def lines(found, threshold):
    """Returns what was looked up, in words."""
    known, nearest = found
    said = [f"{cosine:.4f}  {name}" for name, cosine in nearest]
    return said if known else [f"unknown: no cosine reaches {threshold:.4f}; the nearest are", *said]


def unit(vectors):
    """Scales vectors to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
