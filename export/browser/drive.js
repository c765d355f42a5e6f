// What reader.py loads in place of page.js: it asks about the images that the reader hands it, one a turn.

/** Says what was found, and gets the next image: height, width, pixels. */
async function turn(found) {
  const reply = await fetch("turn", { method: "POST", body: found });
  const bytes = await reply.arrayBuffer();
  const [height, width] = new Uint32Array(bytes, 0, 2);
  return { height, width, data: new Uint8Array(bytes, 8) };
}

/** Outputs as bytes: the length of a header, the header in JSON, and the float32 data of all outputs. */
function packed(milliseconds, outputs) {
  const shapes = Object.entries(outputs).map(([name, { shape }]) => [name, shape]);
  const header = new TextEncoder().encode(JSON.stringify({ milliseconds, shapes }));
  return new Blob([Uint32Array.of(header.length), header, ...Object.values(outputs).map(({ data }) => data)]);
}

try {
  const { load } = await import("./artifact.js");  // here, so that a failing module is reported
  const { predict } = await load();
  let found = new Blob();
  while (true) {
    const image = await turn(found);
    const start = performance.now();
    const outputs = await predict(image);
    found = packed(performance.now() - start, outputs);
  }
} catch (error) {
  await fetch("failed", { method: "POST", body: String(error) });
}
