// Names the product in a photo by the nearest vectors of a catalogue, or says that it is unknown: as catalogue.py.

export const FILE = "catalogue.npz";

/** Words about outputs, as a row of ANSWERS: `arrays` are those of the file, and `manifest` has the threshold. */
export function catalogue({ names, products, vectors, scales }, { extras: { catalogue: { threshold, photos } } }) {
  const called = JSON.parse(new TextDecoder().decode(names.data));
  const width = vectors.shape[1];
  const rows = Array.from(scales.data, (scale, n) =>
    unit(Float32Array.from(vectors.data.subarray(n * width, (n + 1) * width), (value) => value * scale)),
  );
  const about = () => `${called.length} products in ${photos} photos`;
  return { about, rows: ({ embeddings }, manifest, top) => said(nearest(unit(embeddings.data)).slice(0, top)) };

  /** Each product with the cosine of its most similar photo, the most similar product first. */
  function nearest(vector) {
    const best = new Float32Array(called.length).fill(-Infinity);
    rows.forEach((row, n) => { best[products.data[n]] = Math.max(best[products.data[n]], dot(row, vector)); });
    return called.map((name, k) => [name, best[k]]).sort(([, one], [, other]) => other - one);
  }

  function said(found) {
    const lines = found.map(([name, cosine]) => [name, cosine.toFixed(4), Math.max(cosine, 0)]);
    if (found[0][1] >= threshold) return lines;
    return [["unknown", `no cosine reaches ${threshold.toFixed(4)}; the nearest are`, 0], ...lines];
  }
}

const dot = (one, other) => one.reduce((sum, value, k) => sum + value * other[k], 0);

/** A vector of length 1. */
function unit(vector) {
  const length = Math.max(Math.sqrt(dot(vector, vector)), 1e-12);
  return vector.map((value) => value / length);
}
