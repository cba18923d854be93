// Smoothing of landmarks as they come, which removes the jitter of the detector.
//
// Points are complex numbers x + iy, so that turning and scaling is one product. A frame is split into the
// head's place, its turn and scale, and the points as they would be on the upright face, in its radii.

import { smoothing as constants } from "./constants.js";
import { centreAndScale } from "./geometry.js";

const { BORDER, HEAD, IRIS_FRAMES, JUMP, NOISE, POINTS, SHARP, STARTS, STEADY, WINDOW } = constants;
const IRISES = 2 + POINTS; // first number of the irises in a split frame

export class OnlineSmoother {
  constructor() {
    this.reset();
  }

  // Forget the previous frames, because another face follows.
  reset() {
    Object.assign(this, { first: null, last: null, window: [] });
  }

  // Return smoothed points float32 [136 or 156] of the frame at `t` seconds.
  next(points, t) {
    if (this.last !== null) {
      const step = t - this.window.at(-1).t;
      if (this.last.length !== points.length || !(step > 0 && step <= BORDER) || jumps(this.last, points)) this.reset();
    }
    this.first ??= points;
    this.last = points;
    this.window.push({ t, frame: splitHeadFace(points, this.first) });
    this.window = this.window.filter((entry) => t - entry.t <= WINDOW);
    return mergeHeadFace(weightedMean(this.window.map((entry) => entry.frame)));
  }
}

// Return the mean of split frames, weighted by how similar their parts are to those of the last one.
function weightedMean(frames) {
  const last = frames.at(-1);
  const total = new Float64Array(last.length);
  const weights = new Float64Array(last.length / 2);
  for (const [number, frame] of frames.entries()) {
    const isOld = number < frames.length - 1 - IRIS_FRAMES;
    const weight = similarityWeight(frame, last);
    for (let i = 0; i < weight.length; i += 1) {
      if (isOld && i >= IRISES) continue;
      weights[i] += weight[i];
      total[2 * i] += weight[i] * frame[2 * i];
      total[2 * i + 1] += weight[i] * frame[2 * i + 1];
    }
  }
  return total.map((value, i) => value / weights[i >> 1]);
}

// Split points into head and face; `reference` is the face that they show turned, scaled and shifted.
function splitHeadFace(points, reference) {
  const [modelX, modelY] = steadyMean(reference);
  const unit = radius(reference) || 1;
  const [placeX, placeY] = steadyMean(points);
  let [turnX, turnY, norm] = [0, 0, 0];
  for (const i of STEADY) {
    const [a, b] = [(reference[2 * i] - modelX) / unit, (reference[2 * i + 1] - modelY) / unit];
    const [x, y] = [points[2 * i] - placeX, points[2 * i + 1] - placeY];
    turnX += x * a + y * b; // times the conjugate
    turnY += y * a - x * b;
    norm += a * a + b * b;
  }
  [turnX, turnY] = [turnX / (norm || 1), turnY / (norm || 1)];
  if (turnX === 0 && turnY === 0) turnX = 1; // no face, all points in one place
  const frame = new Float64Array(4 + points.length);
  frame.set([placeX, placeY, turnX, turnY]);
  const size = turnX * turnX + turnY * turnY;
  for (let i = 0; i < points.length; i += 2) {
    const [x, y] = [points[i] - placeX, points[i + 1] - placeY];
    frame[4 + i] = (x * turnX + y * turnY) / size;
    frame[5 + i] = (y * turnX - x * turnY) / size;
  }
  return frame;
}

// Merge a split frame into points float32, the inverse of `splitHeadFace`.
function mergeHeadFace(frame) {
  const [placeX, placeY, turnX, turnY] = frame;
  const points = new Float32Array(frame.length - 4);
  for (let i = 0; i < points.length; i += 2) {
    const [x, y] = [frame[4 + i], frame[5 + i]];
    points[i] = placeX + turnX * x - turnY * y;
    points[i + 1] = placeY + turnX * y + turnY * x;
  }
  return points;
}

// Return how similar split frames are but for jitter: 0..1, the same for all the points of a part.
function similarityWeight(one, other) {
  const count = one.length / 2;
  const differences = new Float64Array(count);
  for (let i = 0; i < count; i += 1) {
    differences[i] = (one[2 * i] - other[2 * i]) ** 2 + (one[2 * i + 1] - other[2 * i + 1]) ** 2;
  }
  const scale = Math.hypot(one[2], one[3]) * Math.hypot(other[2], other[3]) * HEAD ** 2;
  differences[0] /= scale;
  differences[1] /= scale;
  const weight = new Float64Array(count);
  const starts = [...STARTS.filter((start) => start < count), count];
  for (let part = 0; part + 1 < starts.length; part += 1) {
    const [start, end] = [starts[part], starts[part + 1]];
    const mean = differences.subarray(start, end).reduce((sum, value) => sum + value, 0) / (end - start);
    // two coordinates of two frames bring four times the variance of one
    const excess = Math.max(mean / (4 * NOISE ** 2) - 1, 0);
    weight.fill(Math.exp(-((excess / SHARP) ** 2)), start, end);
  }
  return weight;
}

// Return whether a face moved, turned or grew by more than half of it.
function jumps(before, after) {
  let squares = 0;
  for (let i = 0; i < 2 * POINTS; i += 1) squares += (after[i] - before[i]) ** 2 / POINTS;
  return Math.sqrt(squares) > JUMP * Math.min(radius(before), radius(after));
}

// Return the radius of a face, whose irises do not count.
const radius = (points) => centreAndScale(points.subarray(0, 2 * POINTS)).scale;

function steadyMean(points) {
  let [x, y] = [0, 0];
  for (const i of STEADY) {
    x += points[2 * i] / STEADY.length;
    y += points[2 * i + 1] / STEADY.length;
  }
  return [x, y];
}
