// Sounds: { rate, data }, samples of one channel from -1 to 1.

export const sounds = {
  one: "a sound",
  many: "sounds",
  choose: "Choose a sound, or drop one here",
  stay: "Sounds stay on this device.",
  accept: "audio/*",
  Values: Float32Array,
  read,
  record,
  of: ({ data }) => ({ data }),
  taken: ({ data }, { samples }) => fit(data, samples),
  restored: (outputs) => outputs,
  parts,
  about: ({ rate, data }) => `${(data.length / rate).toFixed(2)} s`,
};

/** A sound file at the model's rate: the mean of its channels, resampled by the browser. */
async function read(file, { sample_rate: rate }) {
  const context = new OfflineAudioContext(1, 1, rate);
  const decoded = await context.decodeAudioData(await file.arrayBuffer());
  const data = new Float32Array(decoded.length);
  for (let channel = 0; channel < decoded.numberOfChannels; channel++) {
    decoded.getChannelData(channel).forEach((value, k) => { data[k] += value / decoded.numberOfChannels; });
  }
  return { rate, data };
}

/** A window of the microphone, as a file. */
async function record({ samples, sample_rate: rate }) {
  const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  const stopped = new Promise((done) => recorder.addEventListener("stop", done));
  recorder.addEventListener("dataavailable", ({ data }) => parts.push(data));
  recorder.start();
  await new Promise((wake) => setTimeout(wake, (1000 * samples) / rate));
  recorder.stop();
  await stopped;
  for (const track of stream.getTracks()) track.stop();
  return new File(parts, "recording", { type: recorder.mimeType });
}

/** The sound cut, or padded with silence, to a number of samples. */
function fit(data, samples) {
  const window = new Float32Array(samples);
  window.set(data.subarray(0, samples));
  return window;
}

/** The windows of a sound, each with the second where it starts. */
function parts({ rate, data }, { samples }) {
  const count = Math.max(Math.ceil(data.length / samples), 1);
  if (count === 1) return [["", { rate, data }]];
  return Array.from({ length: count }, (_, n) => [
    `${((n * samples) / rate).toFixed(1)} s: `,
    { rate, data: data.subarray(n * samples, (n + 1) * samples) },
  ]);
}
