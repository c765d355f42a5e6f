// What the outputs about an image say, by what was learnt: as answers.py, one row a kind in ANSWERS.
import { colorOf, framed, heated, tinted } from "./drawings.js";

/** Indices of numbers, from the highest to the lowest. */
const ranked = (numbers) => [...numbers.keys()].sort((a, b) => numbers[b] - numbers[a]);

const CONFIDENT = 0.3;
const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** The most probable labels, with their shares of a bar; and the decision, where the manifest has a threshold. */
function best({ scores }, { labels, decision }, top) {
  const rows = ranked(scores.data).slice(0, top).map((i) => [labels[i], percent(scores.data[i]), scores.data[i]]);
  if (!decision) return rows;
  const score = scores.data[labels.indexOf(decision.label)];
  const word = score >= decision.threshold ? decision.label : `not ${decision.label}`;
  return [...rows, [`decision: ${word}`, `from ${percent(decision.threshold)}`, 0]];
}

const number = ({ scores }, { labels }) => [[labels[0], scores.data[0].toPrecision(5), 0]];

/** The decision, with the score's share of twice the threshold; and the cell where it is highest. */
function decision({ score, defective, heat_map: { shape, data } }) {
  const [columns] = shape.slice(-1);
  const highest = ranked(data)[0];
  const [rows] = shape.slice(-2);
  const left = percent(((highest % columns) + 0.5) / columns);
  const top = percent((Math.floor(highest / columns) + 0.5) / rows);
  const word = defective.data[0] > 0.5 ? "defective" : "good";
  return [
    [word, `score ${score.data[0].toPrecision(4)}`, Math.min(Math.max(score.data[0] / 2, 0), 1)],
    ["highest", `${left} from the left, ${top} from the top`, 0],
  ];
}

/** The confident detections: [x1, y1, x2, y2, score, class]. */
function confident({ detections: { shape, data } }) {
  const width = shape.at(-1);
  const rows = Array.from({ length: data.length / width }, (_, n) => data.slice(n * width, (n + 1) * width));
  return rows.filter((row) => row[4] >= CONFIDENT);
}

/** A line for each confident detection: its class, corners in pixels, and score. */
function boxes(outputs, { labels }) {
  const found = confident(outputs);
  if (!found.length) return [["nothing", "", 0]];
  return found.map(([x1, y1, x2, y2, score, k]) => [
    labels[k],
    `x ${x1.toFixed(0)} to ${x2.toFixed(0)}, y ${y1.toFixed(0)} to ${y2.toFixed(0)}: ${percent(score)}`,
    score,
  ]);
}

/** The share of the picture that each class has, the largest first, and how probable it is there. */
function shares({ class_map: { data }, probabilities }, manifest, top) {
  const { labels } = manifest;
  const [counts, sums] = [labels.map(() => 0), labels.map(() => 0)];
  data.forEach((number, k) => {
    counts[number] += 1;
    if (probabilities) sums[number] += probabilities.data[k * labels.length + number];
  });
  const found = ranked(counts).filter((i) => counts[i]).slice(0, top);
  const sure = (i) => (probabilities ? `, mean probability ${(sums[i] / counts[i]).toFixed(3)}` : "");
  const share = (i) => counts[i] / data.length;
  return found.map((i) => [labels[i], percent(share(i)) + sure(i), share(i), i ? colorOf(manifest, i) : undefined]);
}

/** Whether all but a thousandth of the pixels have the same class. */
function sameMap({ class_map: ours }, { class_map: theirs }) {
  const differ = theirs.data.reduce((count, number, k) => count + (number !== ours.data[k]), 0);
  return ours.data.length === theirs.data.length && differ <= theirs.data.length / 1000;
}

/** How each output begins. */
const plain = (outputs) =>
  Object.entries(outputs).map(([name, { shape, data }]) => [
    `${name} [${shape}]`,
    [...data.slice(0, 4)].map((value) => value.toPrecision(3)).join(" "),
    0,
  ]);

const counted = ({ labels }) => `${labels.length} labels`;
const sameLabel = (ours, theirs) => ranked(ours.scores.data)[0] === ranked(theirs.scores.data)[0];
const sameDecision = (ours, theirs) => ours.defective.data[0] > 0.5 === theirs.defective.data[0] > 0.5;
const sameLabels = (ours, theirs) => theirs.scores.data.every((p, k) => p > 0.5 === ours.scores.data[k] > 0.5);

// rows(outputs, manifest, top) -> [what, value, share of a bar, colour in the drawing if there is one]; about(manifest);
// alike(ours, theirs), where there are labels; draw(context, outputs, manifest), where outputs say where something is.
const ANSWERS = {
  label: { rows: best, about: counted, alike: sameLabel },
  labels: { rows: best, about: counted, alike: sameLabels },
  boxes: { rows: boxes, about: counted, draw: (context, outputs, manifest) => framed(context, confident(outputs), manifest) },
  defects: {
    rows: decision,
    about: () => "a score, a decision and a heat map",
    alike: sameDecision,
    draw: (context, { heat_map }) => heated(context, heat_map),
  },
  mask: {
    rows: shares,
    about: ({ labels }) => `the class of each pixel, of ${labels.length}`,
    alike: sameMap,
    draw: (context, { class_map }, manifest) => tinted(context, class_map, manifest),
  },
  number: { rows: number, about: ({ labels }) => labels[0] },
};
const PLAIN = { rows: plain, about: ({ outputs }) => outputs.map(({ name }) => name).join(", ") };

export const answers = ({ learnt }) => ANSWERS[learnt] ?? PLAIN;
