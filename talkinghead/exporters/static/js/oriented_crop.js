// Square crops of a frame that turn with the head, as the landmark networks see a face.

import { orientedCrop as constants } from "./constants.js";
import { centreAndScale, clamp } from "./geometry.js";
import { resizeAntialiased } from "./resize.js";

const { MEAN_FACE, MIN_UNFILTERED_SHRINK } = constants;

// A square of a frame, turned about its centre by radians clockwise in the image; all in pixels of the frame.
export class OrientedCrop {
  constructor(x, y, side, angle = 0) {
    Object.assign(this, { x, y, side, angle });
  }

  // Its axes to the right and down.
  get axes() {
    const c = Math.cos(this.angle) * this.side;
    const s = Math.sin(this.angle) * this.side;
    return [[c, s], [-s, c]];
  }

  // Return a point in fractions of the crop in pixels of the frame.
  toFrame(u, v) {
    const [across, down] = this.axes;
    return [
      (u - 0.5) * across[0] + (v - 0.5) * down[0] + this.x,
      (u - 0.5) * across[1] + (v - 0.5) * down[1] + this.y,
    ];
  }
}

// Return the crop around a face, upright as its head; `side` is in root-mean-square radii of the landmarks.
export function cropOfLandmarks(landmarks, side) {
  const { x, y, scale } = centreAndScale(landmarks);
  return new OrientedCrop(x, y, side * Math.max(scale, 1e-3), headRoll(landmarks));
}

// Return how far a head is turned clockwise in the image, in radians: the best turn of the mean face.
export function headRoll(landmarks) {
  const centre = centreAndScale(landmarks);
  let along = 0;
  let across = 0;
  for (const [i, [meanX, meanY]] of MEAN_FACE.entries()) {
    const x = landmarks[2 * i] - centre.x;
    const y = landmarks[2 * i + 1] - centre.y;
    along += meanX * x + meanY * y;
    across += meanX * y - meanY * x;
  }
  return Math.atan2(across, along);
}

// Return crops of a frame {data, width, height} of RGBA bytes as float32 [N, 3, size, size], 0..1.
export function sampleCrops(frame, crops, size) {
  const result = new Float32Array(crops.length * 3 * size * size);
  for (const [index, crop] of crops.entries()) {
    sample(frame, crop, result.subarray(3 * size * size * index, 3 * size * size * (index + 1)));
  }
  return result;
}

// Write a crop to float32 [3, size, size]: its surroundings are shrunk first, then turned; black beyond the frame.
function sample(frame, crop, result) {
  const size = Math.round(Math.sqrt(result.length / 3));
  const [across, down] = crop.axes;
  const reachX = (Math.abs(across[0]) + Math.abs(down[0])) / 2;
  const reachY = (Math.abs(across[1]) + Math.abs(down[1])) / 2;
  const [left, right] = clippedSpan(crop.x - reachX, crop.x + reachX, frame.width);
  const [top, bottom] = clippedSpan(crop.y - reachY, crop.y + reachY, frame.height);
  let window = { ...frame, left, top, cols: right - left, rows: bottom - top };
  let [scaleX, scaleY] = [1, 1];
  const shrink = size / crop.side;
  if (shrink < MIN_UNFILTERED_SHRINK) {
    const cols = Math.max(roundHalfToEven(window.cols * shrink), 1);
    const rows = Math.max(roundHalfToEven(window.rows * shrink), 1);
    [scaleX, scaleY] = [cols / window.cols, rows / window.rows];
    window = resizeAntialiased(window, cols, rows);
  }
  for (let row = 0; row < size; row += 1) {
    for (let column = 0; column < size; column += 1) {
      const u = (column + 0.5) / size - 0.5;
      const v = (row + 0.5) / size - 0.5;
      const x = (crop.x - left + u * across[0] + v * down[0]) * scaleX - 0.5;
      const y = (crop.y - top + u * across[1] + v * down[1]) * scaleY - 0.5;
      writeBilinear(window, x, y, result, row * size + column, size * size);
    }
  }
}

// Write the colour of a window at a position to the planes of a result; black beyond the window.
function writeBilinear(window, x, y, result, place, plane) {
  const column = Math.floor(x);
  const row = Math.floor(y);
  if (column < -1 || row < -1 || column >= window.cols || row >= window.rows) return;
  let [red, green, blue] = [0, 0, 0];
  for (let i = 0; i < 4; i += 1) {
    const [right, below] = [i & 1, i >> 1];
    const [c, r] = [column + right, row + below];
    if (c < 0 || r < 0 || c >= window.cols || r >= window.rows) continue;
    const weight = (right ? x - column : column + 1 - x) * (below ? y - row : row + 1 - y);
    const at = 4 * ((window.top + r) * window.width + window.left + c);
    red += weight * window.data[at];
    green += weight * window.data[at + 1];
    blue += weight * window.data[at + 2];
  }
  result[place] = red / 255;
  result[place + plane] = green / 255;
  result[place + 2 * plane] = blue / 255;
}

// Return the first and the last pixel + 1 of a span, a pixel wider on both sides and inside 0..length.
function clippedSpan(low, high, length) {
  const first = clamp(Math.floor(low) - 1, 0, length - 1);
  return [first, Math.min(Math.max(Math.ceil(high) + 1, first + 1), length)];
}

function roundHalfToEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
