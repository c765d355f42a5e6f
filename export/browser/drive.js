// What reader.py loads in place of page.js: it scores the images that the reader hands it, one a turn.

/** Says what was found, float64 [milliseconds, scores …], and gets the next image: height, width, pixels. */
async function turn(found) {
  const reply = await fetch("turn", { method: "POST", body: found });
  const bytes = await reply.arrayBuffer();
  const [height, width] = new Uint32Array(bytes, 0, 2);
  return { height, width, data: new Uint8Array(bytes, 8) };
}

try {
  const { load } = await import("./classify.js");  // here, a module that fails is reported, too
  const { predict } = await load();
  let found = new Float64Array();
  while (true) {
    const image = await turn(found);
    const start = performance.now();
    const scores = await predict(image);
    found = Float64Array.of(performance.now() - start, ...scores);
  }
} catch (error) {
  await fetch("failed", { method: "POST", body: String(error) });
}
