// Runs the model beside this file on a dropped picture. Nothing is sent anywhere.

import * as ort from "./ort/ort.wasm.min.mjs";
import { prepare, probabilities } from "./preprocessing.mjs";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that static servers do not send

const about = await (await fetch("./model.json")).json();
const session = await ort.InferenceSession.create(`./${about.file}`, { executionProviders: ["wasm"] });
const element = (id) => document.getElementById(id);

/** Decode a picture, upright, over white, to RGB. */
async function load(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const data = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { height: bitmap.height, width: bitmap.width, data };
}

/** Return every class with its probability, the likeliest first, and the milliseconds of the network alone. */
export async function classify(blob) {
  const side = about.preprocessing.input_size;
  const tiles = prepare(await load(blob), about.preprocessing);
  const sums = new Float64Array(about.classes.length);
  const start = performance.now();
  for (const tile of tiles) {
    const feed = { [session.inputNames[0]]: new ort.Tensor("float32", tile, [1, 3, side, side]) };
    const outputs = (await session.run(feed))[session.outputNames[0]].data;
    probabilities(outputs, about.activation).forEach((value, i) => (sums[i] += value / tiles.length));
  }
  const ms = performance.now() - start;
  const scores = Array.from(sums, (value, i) => [about.classes[i], value]).sort((a, b) => b[1] - a[1]);
  return { scores, ms };
}

async function show(blob) {
  if (!blob) return;
  element("picture").src = URL.createObjectURL(blob);
  try {
    const { scores, ms } = await classify(blob);
    const rows = scores.slice(0, 5).map(([name, value]) => {
      const row = document.createElement("tr");
      const [label, bar] = [document.createElement("td"), document.createElement("td")];
      label.textContent = name;
      bar.innerHTML = `<meter value="${value}"></meter> ${(100 * value).toFixed(1)} %`;
      row.append(label, bar);
      return row;
    });
    element("answer").replaceChildren(...rows);
    element("time").textContent = `${ms.toFixed(1)} ms in this browser, one thread`;
  } catch (error) {
    element("time").textContent = `This picture cannot be read: ${error.message ?? error}`;
  }
}

element("file").addEventListener("change", (event) => show(event.target.files[0]));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  show(event.dataTransfer.files[0]);
});
element("time").textContent = "ready";
globalThis.pocketvit = { classify }; // for programs that drive the page
