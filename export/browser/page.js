// The page: a photo in, what the model says of it out. With ?check it replays the golden images.
import { answers } from "./answers.js";
import { check, load, photo } from "./artifact.js";

const TOP = 5;
const IDS = ["name", "about", "drop", "photo", "file", "labels", "took", "check"];
const [name, about, drop, shown, file, labels, took, checked] = IDS.map((id) => document.getElementById(id));

/** Labels and names are other people's words: text, never HTML. */
function say(element, text, failed = false) {
  element.textContent = text;
  element.classList.toggle("failed", failed);
}

function row([what, value, share]) {
  const [item, ...parts] = ["li", "span", "span"].map((tag) => document.createElement(tag));
  say(parts[0], what);
  say(parts[1], value);
  item.style.setProperty("--share", `${100 * share}%`);
  item.append(...parts);
  return item;
}

async function ask(artifact, chosen) {
  labels.replaceChildren();
  try {
    const image = await photo(chosen);
    URL.revokeObjectURL(shown.src);
    shown.src = URL.createObjectURL(chosen);
    shown.hidden = false;
    const start = performance.now();
    const outputs = await artifact.predict(image);
    const milliseconds = performance.now() - start;
    labels.append(...answers(artifact.manifest).rows(outputs, artifact.manifest, TOP).map(row));
    say(took, `${image.width} × ${image.height} pixels, ${milliseconds.toFixed(1)} ms`);
  } catch (error) {
    shown.hidden = true;
    say(took, `${chosen.name} cannot be read as an image: ${error.message}`, true);
  }
}

async function replay(artifact) {
  say(checked, "Replaying the golden images …");
  const { images, error, allowed, agree, passed } = await check(artifact);
  const [most, limit] = [error, allowed].map((value) => Number(value.toPrecision(3)));
  const figures = `${images} golden images, largest error ${most} (${limit} allowed)`;
  const labelled = agree === undefined ? "" : `, ${agree} labels agree`;
  say(checked, `${passed ? "ok" : "FAILED"}: ${figures}${labelled}`, !passed);
}

try {
  const artifact = await load();
  const { manifest, runtime } = artifact;
  document.title = manifest.name;
  say(name, manifest.name);
  say(about, `${answers(manifest).about(manifest)}, in ${runtime}`);
  file.disabled = false;
  file.addEventListener("change", () => file.files.length && ask(artifact, file.files[0]));
  for (const event of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(event, (dragged) => {
      dragged.preventDefault();
      drop.classList.toggle("over", event === "dragover");
      if (event === "drop" && dragged.dataTransfer.files.length) ask(artifact, dragged.dataTransfer.files[0]);
    });
  }
  if (new URLSearchParams(location.search).has("check")) await replay(artifact);
} catch (error) {
  say(about, `FAILED: ${error.message}`, true);
}
