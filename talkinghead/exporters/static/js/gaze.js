// Gaze: irises in the frame of their eye, from where they are put at the same place of another person's eye.

import { gaze as constants, references } from "./constants.js";
import { clamp } from "./geometry.js";

const {
  CORNERS, EPSILON, EYE_POINTS, GAZE_GAIN, HIDDEN_IRIS, IRIS_POINTS, LOWER_LIDS, MIN_OPENING, MIN_WIDTH, UPPER_LIDS,
} = constants;
const LANDMARKS = 2 * references.POINTS; // numbers of the landmarks among the points
const IRIS = 2 * IRIS_POINTS; // numbers of an iris

// Put the irises [20] of the eyes of `source` at the same relative places of those of `target`, both [136].
export function retargetIrises(irises, source, target) {
  const eyes = eyeFrames(source);
  const others = eyeFrames(target);
  const result = new Float32Array(irises.length);
  for (const [number, eye] of eyes.entries()) {
    const other = others[number];
    const start = IRIS * number;
    const iris = irises.subarray(start, start + IRIS);
    if (isHidden(iris)) { // it stays hidden
      result.fill(HIDDEN_IRIS, start, start + IRIS);
      continue;
    }
    const centre = toFrame(eye, iris[0], iris[1]);
    for (let i = 0; i < iris.length; i += 2) {
      const place = toFrame(eye, iris[i], iris[i + 1]);
      const across = (centre[1] * other.opening) / eye.opening + place[1] - centre[1];
      result.set(fromFrame(other, place[0], across), start + i);
    }
  }
  return result;
}

// Return whether an iris is unknown: the points of a visible one differ.
function isHidden(iris) {
  return iris.every((value, i) => value === iris[i % 2]);
}

// Return the frame of each eye: its origin between the lids, the unit vector along it, its width, its opening.
function eyeFrames(points) {
  const at = (i) => [points[2 * i], points[2 * i + 1]];
  const mean = (indices) => [0, 1].map((axis) => indices.reduce((sum, i) => sum + at(i)[axis], 0) / indices.length);
  const vectors = CORNERS.map(([first, last]) => [at(last)[0] - at(first)[0], at(last)[1] - at(first)[1]]);
  const lengths = vectors.map(([x, y]) => Math.hypot(x, y));
  const leastWidth = Math.max(MIN_WIDTH * Math.max(...lengths), EPSILON);
  return CORNERS.map((corners, eye) => {
    const length = Math.max(lengths[eye], EPSILON);
    const axis = [vectors[eye][0] / length, vectors[eye][1] / length];
    const width = Math.max(lengths[eye], leastWidth);
    const middle = mean(corners);
    const height = (lids) => {
      const [x, y] = mean(lids);
      return (x - middle[0]) * -axis[1] + (y - middle[1]) * axis[0];
    };
    const [upper, lower] = [height(UPPER_LIDS[eye]), height(LOWER_LIDS[eye])];
    const shift = (upper + lower) / 2;
    const origin = [middle[0] - axis[1] * shift, middle[1] + axis[0] * shift];
    return { origin, axis, width, opening: Math.max((lower - upper) / width, MIN_OPENING) };
  });
}

// Return a point as widths along and across an eye.
function toFrame({ origin, axis, width }, x, y) {
  const [dx, dy] = [x - origin[0], y - origin[1]];
  return [(dx * axis[0] + dy * axis[1]) / width, (dy * axis[0] - dx * axis[1]) / width];
}

// Return the point of such a place, the inverse of `toFrame`.
function fromFrame({ origin, axis, width }, along, across) {
  return [
    (along * axis[0] - across * axis[1]) * width + origin[0],
    (along * axis[1] + across * axis[0]) * width + origin[1],
  ];
}

// Return a copy of points [136 or 156] of another length: irises are cut off, or hidden ones appended.
export function fitPoints(points, length) {
  const fitted = new Float32Array(length).fill(HIDDEN_IRIS);
  fitted.set(points.subarray(0, length));
  return fitted;
}

// Return the points by which a picture is warped to a driver's and their targets, both as long as `points`, 136 or
// 156; an iris that is hidden in one of the two, or that the driver lacks, is replaced by landmarks of its eye.
export function pointsToWarp(points, target) {
  const source = points.slice();
  const goal = fitPoints(target, points.length);
  for (let start = LANDMARKS; start < points.length; start += IRIS) {
    const [iris, goalIris] = [source, goal].map((face) => face.subarray(start, start + IRIS));
    const [eye, goalEye] = [source, goal].map((face) => eyeOf(face, (start - LANDMARKS) / IRIS));
    if (isHidden(iris) || isHidden(goalIris)) {
      iris.set(eye.subarray(0, IRIS));
      goalIris.set(goalEye.subarray(0, IRIS));
      continue;
    }
    flatten(goalIris, eye, goalEye);
    for (const axis of [0, 1]) {
      const gaze = meanDifference(iris, goalIris, axis) - meanDifference(eye, goalEye, axis);
      for (let i = axis; i < IRIS; i += 2) iris[i] += GAZE_GAIN * gaze;
    }
  }
  return [source, goal];
}

// Flatten an iris of which the lids of `goalEye` cover more than those of `eye`, both [12], as the eye is flattened.
function flatten(iris, eye, goalEye) {
  const [alongX, alongY] = [goalEye[6] - goalEye[0], goalEye[7] - goalEye[1]];
  const length = Math.max(Math.hypot(alongX, alongY), EPSILON);
  const across = [-alongY / length, alongX / length];
  const heightOf = (points, i) => points[2 * i] * across[0] + points[2 * i + 1] * across[1];
  const opening = (points) => (heightOf(points, 4) + heightOf(points, 5) - heightOf(points, 1) - heightOf(points, 2)) / 2;
  const openShare = clamp(opening(goalEye) / Math.max(opening(eye), EPSILON), 0, 1);
  const middle = [0, 1, 2, 3, 4, 5].reduce((sum, i) => sum + heightOf(goalEye, i), 0) / 6;
  for (let i = 0; i < iris.length / 2; i += 1) {
    const covered = (1 - openShare) * (heightOf(iris, i) - middle);
    iris[2 * i] -= covered * across[0];
    iris[2 * i + 1] -= covered * across[1];
  }
}

// Return the landmarks [12] of an eye, as a part of the points.
export function eyeOf(points, number) {
  const first = 2 * EYE_POINTS[number][0];
  return points.subarray(first, first + 2 * EYE_POINTS[number].length);
}

// Return the mean of the differences of two sets of points along an axis.
function meanDifference(points, others, axis) {
  let sum = 0;
  for (let i = axis; i < points.length; i += 2) sum += points[i] - others[i];
  return sum / (points.length / 2);
}
