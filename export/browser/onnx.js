// onnxruntime-web. `npm install onnxruntime-web`, as README.md says, put it into js/.
import * as ort from "./js/onnxruntime-web/dist/ort.wasm.min.mjs";

export const name = "onnxruntime-web";

/** The model as a function: an image's pixels -> its scores. */
export async function load(manifest) {
  ort.env.wasm.wasmPaths = new URL("js/onnxruntime-web/dist/", import.meta.url).href;
  const url = new URL(manifest.model, import.meta.url).href;
  const session = await ort.InferenceSession.create(url, { executionProviders: ["wasm"] });
  const [{ dtype, shape }] = manifest.inputs;
  return async (pixels) => {
    const { scores } = await session.run({ images: new ort.Tensor(dtype, pixels, shape) });
    return scores.data;
  };
}
