// From the pixels of a picture to what the network takes; equal to PocketViT's own preprocessing, step by step.
//
// `about` is the dictionary "preprocessing" in the metadata of the model. A picture is {height, width, data}, data being
// a Uint8Array of RGB, row by row.

/** Return one Float32Array [3 * S * S] a tile, as a rule one. */
export function prepare(picture, about) {
  const tiles = about.tile ? cutTiles(picture, about.tile) : [picture];
  const size = about.input_size;
  return tiles.map((tile) => {
    const pixels = resize(toView(tile, about), size, size, "lanczos", 5);
    const planes = new Float32Array(3 * size * size);
    for (let c = 0; c < 3; c++) {
      const scale = Math.fround(1 / (255 * about.std[c]));
      const shift = Math.fround(-about.mean[c] / about.std[c]);
      for (let i = 0; i < size * size; i++) {
        planes[c * size * size + i] = Math.fround(pixels.data[3 * i + c] * scale) + shift;
      }
    }
    return planes;
  });
}

/** Cut a picture into the fewest squares that cover it, evenly spread; one smaller than a square is mirrored. */
function cutTiles(picture, tile) {
  const starts = (side) => {
    const count = Math.ceil(side / tile);
    return count <= 1 ? [0] : Array.from({ length: count }, (_, i) => Math.floor((i * (side - tile)) / (count - 1)));
  };
  const mirrored = (i, side) => (i % (2 * side) < side ? i % (2 * side) : 2 * side - 1 - (i % (2 * side)));
  return starts(picture.height).flatMap((top) =>
    starts(picture.width).map((left) => {
      const data = new Uint8Array(tile * tile * 3);
      for (let y = 0; y < tile; y++) {
        for (let x = 0; x < tile; x++) {
          const from = 3 * (mirrored(top + y, picture.height) * picture.width + mirrored(left + x, picture.width));
          data.set(picture.data.subarray(from, from + 3), 3 * (y * tile + x));
        }
      }
      return { height: tile, width: tile, data };
    }),
  );
}

/** Make a picture square (crop, pad with black, or stretch) at the view's size. */
function toView(picture, about) {
  const size = about.view_size;
  let high = size, wide = size;
  if (about.aspect === "crop") {
    const side = Math.min(picture.height, picture.width);
    picture = crop(picture, Math.floor((picture.height - side) / 2), Math.floor((picture.width - side) / 2), side);
  } else if (about.aspect === "pad") {
    const longest = Math.max(picture.height, picture.width);
    const fitted = (side) => Math.max(1, Math.floor((2 * side * size + longest) / (2 * longest)));
    [high, wide] = [fitted(picture.height), fitted(picture.width)];
  }
  const small = resize(picture, high, wide, about.resample, about.lobes);
  if (high === size && wide === size) return small;
  const data = new Uint8Array(size * size * 3);
  const top = Math.floor((size - high) / 2), left = Math.floor((size - wide) / 2);
  for (let y = 0; y < high; y++) {
    data.set(small.data.subarray(3 * y * wide, 3 * (y + 1) * wide), 3 * ((top + y) * size + left));
  }
  return { height: size, width: size, data };
}

function crop(picture, top, left, side) {
  const data = new Uint8Array(side * side * 3);
  for (let y = 0; y < side; y++) {
    const from = 3 * ((top + y) * picture.width + left);
    data.set(picture.data.subarray(from, from + 3 * side), 3 * y * side);
  }
  return { height: side, width: side, data };
}

/** Resize, columns first, rounded to 8 bits after each axis. */
export function resize(picture, height, width, kernel, lobes) {
  let { data } = picture;
  if (picture.width !== width) {
    data = along(data, picture.height, picture.width, width, 3 * picture.width, 3, 3 * width, 3, kernel, lobes);
  }
  if (picture.height !== height) {
    data = along(data, width, picture.height, height, 3, 3 * width, 3, 3 * width, kernel, lobes);
  }
  return { height, width, data };
}

/** Resize `lines` lines of pixels from `sizeIn` to `sizeOut`; strides say where the next line and pixel are. */
function along(source, lines, sizeIn, sizeOut, lineIn, stepIn, lineOut, stepOut, kernel, lobes) {
  const result = new Uint8Array(lines * sizeOut * 3);
  const rows = kernelWeights(sizeIn, sizeOut, kernel, lobes);
  for (let line = 0; line < lines; line++) {
    for (let out = 0; out < sizeOut; out++) {
      const { start, weights } = rows[out];
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let tap = 0; tap < weights.length; tap++) {
          sum += weights[tap] * source[line * lineIn + (start + tap) * stepIn + c];
        }
        result[line * lineOut + out * stepOut + c] = Math.min(255, Math.max(0, Math.floor(sum + 0.5)));
      }
    }
  }
  return result;
}

/** Return {start, weights} for each output pixel: multiples of 2^-14 that sum to 1, so that sums are exact. */
export function kernelWeights(sizeIn, sizeOut, kernel, lobes) {
  const scale = sizeIn / sizeOut;
  const widening = Math.max(scale, 1);
  const support = { lanczos: lobes, bicubic: 2, bilinear: 1, nearest: 0 }[kernel] * widening;
  return Array.from({ length: sizeOut }, (_, out) => {
    if (kernel === "nearest") return { start: Math.floor(((2 * out + 1) * sizeIn) / (2 * sizeOut)), weights: [1] };
    const centre = (out + 0.5) * scale;
    const start = Math.max(Math.floor(centre - support + 0.5), 0);
    const stop = Math.min(Math.floor(centre + support + 0.5), sizeIn);
    const values = [];
    for (let tap = start; tap < stop; tap++) values.push(kernelValue(Math.abs((tap + 0.5 - centre) / widening), kernel, lobes));
    const total = values.reduce((a, b) => a + b, 0);
    let running = 0, before = 0;
    const weights = values.map((value) => {
      running += value / total;
      const rounded = Math.floor(running * 16384 + 0.5);
      const weight = (rounded - before) / 16384;
      before = rounded;
      return weight;
    });
    return { start, weights };
  });
}

function kernelValue(x, kernel, lobes) {
  if (kernel === "lanczos") return x < lobes ? sinc(x) * sinc(x / lobes) : 0;
  if (kernel === "bicubic") {
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  }
  return Math.max(1 - x, 0);
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

/** Return what the outputs [C] of the network say, as probabilities [C]. */
export function probabilities(outputs, activation) {
  if (activation !== "softmax") return Array.from(outputs, (value) => 1 / (1 + Math.exp(-value)));
  const largest = Math.max(...outputs);
  const exponents = Array.from(outputs, (value) => Math.exp(value - largest));
  const total = exponents.reduce((a, b) => a + b, 0);
  return exponents.map((value) => value / total);
}
