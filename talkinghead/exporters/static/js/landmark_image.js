// Landmark image: coloured, antialiased polylines through the points, the input of the networks.

import { landmarkImage as constants, rasterize } from "./constants.js";

const { ALL_POLYLINES, POINTS, POLYLINES } = constants;
const { MAX_COORDINATE } = rasterize;

// Draw a face of float32 [136 or 156], fractions of the crop, as float32 [3, size, size] in [-1, 1].
export function landmarkImage(points, size) {
  const image = new Float32Array(3 * size * size);
  const radius = Math.max(1, size / 256);
  const polylines = points.length > 2 * POINTS ? ALL_POLYLINES : POLYLINES;
  for (const [line, colour] of polylines) {
    const squares = new Float64Array(size * size).fill(Infinity);
    for (let i = 0; i + 1 < line.length; i += 1) {
      const [start, end] = [line[i], line[i + 1]].map((at) => [points[2 * at] * size, points[2 * at + 1] * size]);
      lowerToSegment(squares, size, start, end, radius + 0.5);
    }
    paint(image, squares, colour, radius);
  }
  return image.map((value) => value * 2 - 1);
}

// Lower squared distances to those from a segment, up to `reach` pixels from it.
function lowerToSegment(squares, size, [startX, startY], [endX, endY], reach) {
  if (![startX, startY, endX, endY].every((value) => Math.abs(value) <= MAX_COORDINATE)) return;
  const [alongX, alongY] = [endX - startX, endY - startY];
  const length = Math.max(alongX * alongX + alongY * alongY, 1e-12); // a segment of no length is a point
  const first = (one, other) => Math.max(Math.floor(Math.min(one, other) - reach), 0);
  const last = (one, other) => Math.min(Math.ceil(Math.max(one, other) + reach), size - 1);
  for (let row = first(startY, endY); row <= last(startY, endY); row += 1) {
    for (let column = first(startX, endX); column <= last(startX, endX); column += 1) {
      const [x, y] = [column + 0.5 - startX, row + 0.5 - startY];
      const t = Math.min(Math.max((x * alongX + y * alongY) / length, 0), 1);
      const square = (x - t * alongX) ** 2 + (y - t * alongY) ** 2;
      if (square < squares[row * size + column]) squares[row * size + column] = square;
    }
  }
}

function paint(image, squares, colour, radius) {
  for (let i = 0; i < squares.length; i += 1) {
    if (squares[i] === Infinity) continue;
    const coverage = Math.min(Math.max(radius + 0.5 - Math.sqrt(squares[i]), 0), 1);
    for (let channel = 0; channel < 3; channel += 1) {
      const at = channel * squares.length + i;
      image[at] += coverage * (colour[channel] / 255 - image[at]);
    }
  }
}
