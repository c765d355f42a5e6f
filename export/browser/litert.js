// LiteRT.js. `npm install @litertjs/core`, as README.md says, put it into js/.
import { output } from "./artifact.js";
import { loadAndCompile, loadLiteRt, Tensor } from "./js/@litertjs/core/dist/index.js";

export const name = "LiteRT.js";

/** The model as a function: an example's values -> its outputs by name. */
export async function load(manifest) {
  await loadLiteRt(new URL("js/@litertjs/core/wasm/", import.meta.url).href);
  const url = new URL(manifest.model, import.meta.url).href;
  const model = await loadAndCompile(url, { accelerator: "wasm" });
  const gives = manifest.outputs.toSorted((one, other) => (one.name < other.name ? -1 : 1));  // as in the file
  return async (values) => {
    const taken = new Tensor(values, manifest.inputs[0].shape);
    const tensors = await model.run([taken]);
    const found = gives.map(({ name, shape }, i) => [name, output(tensors[i].toTypedArray(), shape)]);
    for (const tensor of [taken, ...tensors]) tensor.delete();  // the runtime's memory is not collected as garbage
    return Object.fromEntries(found);
  };
}
