// What outputs say about places in an image, drawn over it: on a clear canvas of the image's own size.

const FOUND = "rgb(220 20 20)";

/** The colour of a class: the data's own, or a hue that is far from those of the classes before. */
export const colorOf = ({ colors = [] }, k) => colors[k] ?? `hsl(${Math.round(137.5 * k) % 360} 85% 45%)`;

/** Frames each [x1, y1, x2, y2, score, class], and names it. */
export function framed(context, rows, { labels }) {
  const size = Math.max(context.canvas.width, context.canvas.height);
  Object.assign(context, { lineWidth: Math.max(size / 200, 1), font: `${Math.max(size / 28, 10)}px sans-serif` });
  Object.assign(context, { strokeStyle: FOUND, textBaseline: "top" });
  for (const [x1, y1, x2, y2, score, k] of rows) {
    const text = `${labels[k]} ${score.toFixed(2)}`;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    context.fillStyle = FOUND;
    context.fillRect(x1, y1, context.measureText(text).width, Math.max(size / 28, 10));
    context.fillStyle = "white";
    context.fillText(text, x1, y1);
  }
}

/** Colours the pixels of each class but the first, which is usually the background. */
export function tinted(context, { shape: [height, width], data }, manifest) {
  context.globalAlpha = 0.55;
  for (let y = 0; y < height; y++) {
    const row = data.subarray(y * width, (y + 1) * width);
    for (let x = 0, end; x < width; x = end) {
      for (end = x + 1; row[end] === row[x]; end++);
      context.fillStyle = colorOf(manifest, row[x]);
      if (row[x]) context.fillRect(x, y, end - x, 1);
    }
  }
}

/** Reddens what is above half of the threshold, which is 1: the more, the higher. */
export function heated(context, { shape, data }) {
  const [height, width] = shape.slice(-2);
  const pixels = new ImageData(width, height);
  data.forEach((heat, k) => pixels.data.set([220, 20, 20, 190 * Math.min(Math.max(2 * heat - 1, 0), 1)], 4 * k));
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.drawImage(small, 0, 0, context.canvas.width, context.canvas.height);
}
