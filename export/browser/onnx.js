// onnxruntime-web. `npm install onnxruntime-web`, as README.md says, put it into js/.
import { output } from "./artifact.js";
import * as ort from "./js/onnxruntime-web/dist/ort.wasm.min.mjs";

export const name = "onnxruntime-web";

/** The model as a function: an example's values -> its outputs by name. */
export async function load(manifest) {
  ort.env.wasm.wasmPaths = new URL("js/onnxruntime-web/dist/", import.meta.url).href;
  const url = new URL(manifest.model, import.meta.url).href;
  const session = await ort.InferenceSession.create(url, { executionProviders: ["wasm"] });
  const [{ name: input, dtype, shape }] = manifest.inputs;
  const one = shape.map((length) => length ?? 1);
  return async (values) => {
    const found = await session.run({ [input]: new ort.Tensor(dtype, values, one) });
    return Object.fromEntries(manifest.outputs.map(({ name, shape }) => [name, output(found[name].data, shape)]));
  };
}
