// Images: { height, width, data }, RGB, rows from the top.
// The resizing is that of images.py, to the bit: a canvas would do it otherwise than the training did.

export const images = {
  one: "an image",
  many: "images",
  choose: "Choose a photo, or drop one here",
  stay: "Photos stay on this device.",
  accept: "image/*",
  Values: Uint8Array,
  read: photo,
  of: ({ shape: [height, width], data }) => ({ height, width, data }),
  taken,
  restored,
  parts: (image) => [["", image]],
  about: ({ width, height }) => `${width} × ${height} pixels`,
};

/** An image file as in training: upright by its EXIF orientation, on white where it is transparent. */
async function photo(file) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * 3);
  for (let i = 0, j = 0; i < rgba.length; i += 4, j += 3) {
    data[j] = rgba[i];
    data[j + 1] = rgba[i + 1];
    data[j + 2] = rgba[i + 2];
  }
  return { height, width, data };
}

/** The model's input; no other sizes where it looks at images as they are. */
function taken(image, reading) {
  const { height, width } = reading;
  if (reading.own_size && (image.height !== height || image.width !== width)) {
    const has = `it has ${image.width} × ${image.height} pixels`;
    throw new Error(`${has}, but this model looks at pictures of ${width} × ${height} as they are`);
  }
  return fit(image, reading).data;
}

/** Outputs in pixels of the image itself where it was resized for the model, as `restored` in images.py. */
function restored(outputs, image, { outputs: specs, reading }) {
  if (reading.resize === "inside") return outputs;
  const [x, y] = [Math.fround(image.width / reading.width), Math.fround(image.height / reading.height)];
  for (const { name } of specs.filter(({ role }) => role === "boxes")) {
    const { shape, data } = outputs[name];
    const width = shape.at(-1);
    data.forEach((value, k) => { if (k % width < 4) data[k] = value * (k % 2 ? y : x); });
  }
  for (const { name } of specs.filter(({ role }) => role === "map" || role === "probabilities")) {
    const { shape: [rows, columns, ...rest], data } = outputs[name];
    const [depth = 1] = rest;
    const [row, column] = [[image.height, rows], [image.width, columns]].map(([size, old]) =>
      Int32Array.from({ length: size }, (_, k) => Math.floor((k * old) / size)),
    );
    const enlarged = new Float32Array(image.height * image.width * depth);
    row.forEach((from, y) => column.forEach((at, x) => {
      const [to, of] = [(y * image.width + x) * depth, (from * columns + at) * depth];
      for (let k = 0; k < depth; k++) enlarged[to + k] = data[of + k];
    }));
    outputs[name] = { shape: [image.height, image.width, ...rest], data: enlarged };
  }
  return outputs;
}

// --- resizing: each line is one of images.py ---------------------------------------------------------------

const f32 = Math.fround;

/** An image of any size -> the size that the model takes, if it does not resize by itself. */
export function fit(image, settings) {
  if (settings.resize === "inside") return image;
  const { height, width } = settings;
  if (settings.crop_to_aspect_ratio) image = cropped(image, height, width);
  if (settings.pad_to_aspect_ratio) image = padded(image, height, width);
  const tall = resized(image, height, 0, settings.interpolation);
  const { data } = resized(tall, width, 1, settings.interpolation);
  return { height, width, data: Uint8Array.from(data, (x) => Math.min(Math.max(evenly(x), 0), 255)) };
}

/** A half is rounded to the even number, as numpy does. */
function evenly(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low & 1) : Math.round(x);
}

function cropped(image, height, width) {
  const tall = Math.max(Math.min(image.height, Math.floor((image.width * height) / width)), 1);
  const wide = Math.max(Math.min(image.width, Math.floor((image.height * width) / height)), 1);
  return moved(image, tall, wide, (image.height - tall) >> 1, (image.width - wide) >> 1);
}

function padded(image, height, width) {
  const tall = Math.max(image.height, Math.floor((image.width * height) / width));
  const wide = Math.max(image.width, Math.floor((image.height * width) / height));
  const [top, left] = [(tall - image.height) >> 1, (wide - image.width) >> 1];
  return moved(image, image.height + 2 * top, image.width + 2 * left, -top, -left);
}

/** The part of an image that begins at (top, left); black where there is none. */
function moved(image, height, width, top, left) {
  const data = new Uint8Array(height * width * 3);
  for (let y = Math.max(0, -top); y < height && y + top < image.height; y++) {
    const from = ((y + top) * image.width + Math.max(left, 0)) * 3;
    const count = Math.min(width, image.width - Math.max(left, 0)) * 3;
    data.set(image.data.subarray(from, from + count), (y * width + Math.max(-left, 0)) * 3);
  }
  return { height, width, data };
}

/** Rows (axis 0) or columns (axis 1) brought to `size`. */
function resized(image, size, axis, interpolation) {
  const length = axis ? image.width : image.height;
  if (length === size) return image;
  const [lines, step] = axis ? [image.height, 3] : [1, image.width * 3];
  const data = new Float32Array(lines * size * step);
  for (let to = 0; to < size; to++) {
    const [first, ...others] = taps(f32(f32(to + 0.5) * f32(length / size)), length, interpolation);
    for (let line = 0; line < lines; line++) {
      for (let k = 0; k < step; k++) {
        const part = ([at, weight]) => f32(image.data[(line * length + at) * step + k] * weight);
        let sum = part(first);
        for (const tap of others) sum = f32(sum + part(tap));
        data[(line * size + to) * step + k] = sum;
      }
    }
  }
  return { height: axis ? image.height : size, width: axis ? size : image.width, data };
}

/** Which pixels of a line make up one, and their weights: half-pixel centres, no antialiasing. */
function taps(edge, length, interpolation) {
  const inside = (at) => Math.min(Math.max(at, 0), length - 1);
  if (interpolation === "nearest") return [[inside(Math.floor(edge)), 1]];
  const middle = f32(edge - 0.5);
  const first = Math.floor(middle);
  const part = f32(middle - first);
  if (interpolation === "bilinear") return [[inside(first), f32(1 - part)], [inside(first + 1), part]];
  const weights = [-1, 0, 1, 2].map((k) => (first + k < 0 || first + k >= length ? 0 : keys(Math.abs(part - k))));
  const total = weights.reduce((sum, weight) => sum + weight);
  return weights.map((weight, k) => [inside(first + k - 1), f32(weight / total)]);
}

const keys = (x) =>
  x <= 1 ? 1.5 * x ** 3 - 2.5 * x ** 2 + 1 : x < 2 ? -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2 : 0;
