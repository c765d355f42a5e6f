// What reader.py loads in place of page.js: it asks about the examples that the reader hands it, one a turn.

/** Says what was found, and gets the next example: its number of axes, their lengths, and its values. */
async function turn(found, Values) {
  const reply = await fetch("turn", { method: "POST", body: found });
  const bytes = await reply.arrayBuffer();
  const [axes] = new Uint32Array(bytes, 0, 1);
  return { shape: [...new Uint32Array(bytes, 4, axes)], data: new Values(bytes, 4 + 4 * axes) };
}

/** Outputs as bytes: the length of a header, the header in JSON, and the float32 data of all outputs. */
function packed(milliseconds, outputs) {
  const shapes = Object.entries(outputs).map(([name, { shape }]) => [name, shape]);
  const header = new TextEncoder().encode(JSON.stringify({ milliseconds, shapes }));
  return new Blob([Uint32Array.of(header.length), header, ...Object.values(outputs).map(({ data }) => data)]);
}

try {
  const { load } = await import("./artifact.js");  // here, so that a failing module is reported
  const { kind, predict } = await load();
  let found = new Blob();
  while (true) {
    const example = kind.of(await turn(found, kind.Values));
    const start = performance.now();
    const outputs = await predict(example);
    found = packed(performance.now() - start, outputs);
  }
} catch (error) {
  await fetch("failed", { method: "POST", body: String(error) });
}
