// Runs an artifact in a page: its manifest, its model in the runtime of its format, and its golden examples.
import { answers } from "./answers.js";
import { catalogue, FILE } from "./catalogue.js";
import { images } from "./images.js";
import { sounds } from "./sounds.js";

const KINDS = { image: images, sound: sounds };
const RUNTIMES = { tflite: "./litert.js", onnx: "./onnx.js" };
const DTYPES = { float32: Float32Array, uint8: Uint8Array };
const NPY_DTYPES = { "|u1": Uint8Array, "|i1": Int8Array, "<i4": Int32Array, "<f4": Float32Array, "<i8": BigInt64Array };

// A kind of example says how it is read, and what the model takes. Outputs are { name: { shape, data } }, of one example.

/**
 * Opens the artifact beside this file: { manifest, kind, runtime, words, read(file) -> example, predict(example) -> outputs }.
 * `words` says about the model and its outputs what a row of ANSWERS does.
 */
export async function load() {
  const manifest = await (await fetched("manifest.json")).json();
  const kind = KINDS[manifest.modality];
  const runtime = await import(RUNTIMES[manifest.format]);
  const run = await runtime.load(manifest);
  const Values = DTYPES[manifest.inputs[0].dtype];
  const predict = async (example) => {
    const found = await run(Values.from(kind.taken(example, manifest.reading)));
    return kind.restored(found, example, manifest);
  };
  const words = manifest.extras.catalogue ? catalogue(await arraysIn(FILE), manifest) : answers(manifest);
  return { manifest, kind, runtime: runtime.name, words, read: (file) => kind.read(file, manifest.reading), predict };
}

/** Replays the golden examples and compares with what Keras said about them. */
export async function check({ manifest, kind, predict }) {
  const golden = await arraysIn("golden.npz");
  const examples = Object.keys(golden).filter((name) => name.startsWith("example_")).sort();
  const { alike } = answers(manifest);
  let [error, agree] = [0, alike && 0];
  for (const [i, name] of examples.entries()) {
    const found = await predict(kind.of(golden[name]));
    const expected = outputsOf(golden, "expected/", i);
    for (const [output, { data }] of Object.entries(expected)) {
      if (manifest.outputs.find(({ name }) => name === output).role === "map") continue;  // classes, which `alike` compares
      for (const [k, value] of data.entries()) error = Math.max(error, Math.abs(found[output].data[k] - value));  // NaN stays
    }
    if (alike) agree += alike(found, expected);
  }
  const allowed = manifest.tolerance.golden_error;
  return { examples: examples.length, error, allowed, agree, passed: error <= allowed };
}

/** The outputs of example i among stored arrays; where an output has any number of rows, offsets say which. */
function outputsOf(arrays, prefix, i) {
  const found = {};
  for (const [key, { shape, data }] of Object.entries(arrays)) {
    if (!key.startsWith(prefix) || key.endsWith("/offsets") || key.endsWith("/shapes")) continue;
    const offsets = arrays[`${key}/offsets`]?.data;
    const [from, to] = offsets ? [Number(offsets[i]), Number(offsets[i + 1])] : [i, i + 1];
    const size = data.length / shape[0];
    const rest = shape.slice(1);
    found[key.slice(prefix.length)] = {
      shape: offsets ? [to - from, ...rest] : rest,
      data: data.subarray(from * size, to * size),
    };
  }
  return found;
}

/** What a runtime gives for one example -> an output as `predict` has it; `shape` is that of the manifest. */
export function output(values, shape) {
  const known = shape.reduce((size, length) => size * (length ?? 1), 1);
  return { shape: shape.slice(1).map((length) => length ?? values.length / known), data: Float32Array.from(values) };
}

async function fetched(name) {
  const reply = await fetch(new URL(name, import.meta.url), { cache: "no-cache" });
  if (!reply.ok) throw new Error(`${name}: ${reply.status} ${reply.statusText}`);
  return reply;
}

// --- numpy's files -----------------------------------------------------------------------------------------

const arraysIn = async (name) => npz(await (await fetched(name)).arrayBuffer());

/** The numeric arrays of an .npz, a zip of .npy files, deflated or as they are: name -> { shape, data }. */
async function npz(buffer) {
  const view = new DataView(buffer);
  let end = buffer.byteLength - 22;
  while (view.getUint32(end, true) !== 0x06054b50) end--;  // throws a RangeError where there is no zip
  const arrays = {};
  for (let n = view.getUint16(end + 10, true), at = view.getUint32(end + 16, true); n > 0; n--) {
    const [nameLength, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const name = new TextDecoder().decode(new Uint8Array(buffer, at + 46, nameLength));
    const local = view.getUint32(at + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const packed = new Blob([new Uint8Array(buffer, start, view.getUint32(at + 20, true))]);
    const isDeflated = view.getUint16(at + 10, true) === 8;
    const whole = isDeflated ? packed.stream().pipeThrough(new DecompressionStream("deflate-raw")) : packed;
    const array = npy(await new Response(whole).arrayBuffer());
    if (array) arrays[name.replace(/\.npy$/, "")] = array;
    at += 46 + nameLength + extra + comment;
  }
  return arrays;
}

function npy(buffer) {
  const length = new DataView(buffer).getUint16(8, true);
  const header = new TextDecoder().decode(new Uint8Array(buffer, 10, length));
  const Data = NPY_DTYPES[/'descr': '([^']+)'/.exec(header)[1]];
  if (!Data) return null;  // the labels, which are in the manifest
  const shape = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").filter((part) => part.trim()).map(Number);
  return { shape, data: new Data(buffer, 10 + length) };
}
