// The page: a photo or a sound in, what the model says of it out. With ?check it replays the golden examples.
import { check, load } from "./artifact.js";

const TOP = 5;
const IDS = ["name", "about", "drop", "choose", "photo", "drawing", "player", "record", "file", "labels", "took", "stay", "check"];
const elements = IDS.map((id) => document.getElementById(id));
const [name, about, drop, choose, photo, drawing, player, record, file, labels, took, stay, checked] = elements;

/** Labels and names are other people's words: text, never HTML. */
function say(element, text, failed = false) {
  element.textContent = text;
  element.classList.toggle("failed", failed);
}

function row([what, value, share, color]) {
  const [item, ...parts] = ["li", "span", "span"].map((tag) => document.createElement(tag));
  say(parts[0], what);
  say(parts[1], value);
  item.style.setProperty("--share", `${100 * share}%`);
  if (color) item.style.setProperty("--key", color);
  item.append(...parts);
  return item;
}

/** Shows where in the photo the outputs say something. */
function draw(words, outputs, manifest, { width, height }) {
  Object.assign(drawing, { width, height, hidden: false });
  words.draw(drawing.getContext("2d"), outputs, manifest);
}

async function ask({ manifest, kind, words, read, predict }, chosen) {
  const shown = kind.record ? player : photo;
  labels.replaceChildren();
  drawing.hidden = true;
  try {
    const example = await read(chosen);
    URL.revokeObjectURL(shown.src);
    shown.src = URL.createObjectURL(chosen);
    shown.hidden = false;
    const start = performance.now();
    const parts = kind.parts(example, manifest.reading);
    const top = parts.length > 1 ? 1 : TOP;
    for (const [where, part] of parts) {
      const outputs = await predict(part);
      const rows = words.rows(outputs, manifest, top);
      labels.append(...rows.map(([what, ...rest]) => row([where + what, ...rest])));
      if (words.draw) draw(words, outputs, manifest, part);
    }
    say(took, `${kind.about(example)}, ${(performance.now() - start).toFixed(1)} ms`);
  } catch (error) {
    shown.hidden = true;
    say(took, `${chosen.name} cannot be read as ${kind.one}: ${error.message}`, true);
  }
}

async function listen(artifact) {
  record.disabled = true;
  say(took, "Recording …");
  try {
    await ask(artifact, await artifact.kind.record(artifact.manifest.reading));
  } catch (error) {
    say(took, `The microphone cannot be used: ${error.message}`, true);
  }
  record.disabled = false;
}

async function replay(artifact) {
  const { many } = artifact.kind;
  say(checked, `Replaying the golden ${many} …`);
  const { examples, error, allowed, agree, passed } = await check(artifact);
  const [most, limit] = [error, allowed].map((value) => Number(value.toPrecision(3)));
  const figures = `${examples} golden ${many}, largest error ${most} (${limit} allowed)`;
  const labelled = agree === undefined ? "" : `, ${agree} labels agree`;
  say(checked, `${passed ? "ok" : "FAILED"}: ${figures}${labelled}`, !passed);
}

try {
  const artifact = await load();
  const { manifest, kind, runtime, words } = artifact;
  document.title = manifest.name;
  say(name, manifest.name);
  say(about, `${words.about(manifest)}, in ${runtime}`);
  say(choose, kind.choose);
  say(stay, kind.stay);
  file.accept = kind.accept;
  file.disabled = false;
  record.hidden = !(kind.record && navigator.mediaDevices);
  record.addEventListener("click", () => listen(artifact));
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
