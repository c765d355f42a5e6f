// LiteRT.js. `npm install @litertjs/core`, as README.md says, put it into js/.
import { loadAndCompile, loadLiteRt, Tensor } from "./js/@litertjs/core/dist/index.js";

export const name = "LiteRT.js";

/** The model as a function: an image's pixels -> its scores. */
export async function load(manifest) {
  await loadLiteRt(new URL("js/@litertjs/core/wasm/", import.meta.url).href);
  const url = new URL(manifest.model, import.meta.url).href;
  const model = await loadAndCompile(url, { accelerator: "wasm" });
  return async (pixels) => {
    const images = new Tensor(pixels, manifest.inputs[0].shape);
    const [scores] = await model.run([images]);
    const found = Float32Array.from(scores.toTypedArray());
    images.delete();  // the runtime's memory is not collected as garbage
    scores.delete();
    return found;
  };
}
