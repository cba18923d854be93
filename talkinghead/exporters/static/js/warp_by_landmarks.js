// Warping of pictures by landmarks: a motion field by moving least squares, and bicubic sampling along the field.
//
// A field is float32 [2, grid, grid], the position to sample as a displacement in fractions of the picture.

import { bicubic, warpByLandmarks as constants } from "./constants.js";
import { clamp } from "./geometry.js";

const { BORDER_WEIGHT, GRID, RIDGE, SOFTENING } = constants;
const { A } = bicubic;
const QUARTERS = [0, 0.25, 0.5, 0.75, 1];
const BORDER = [ // 16 points that do not move
  ...QUARTERS.flatMap((x) => [[x, 0], [x, 1]]), ...QUARTERS.slice(1, 4).flatMap((y) => [[0, y], [1, y]]),
];

// Return the field that warps a picture so that its points `source` [136 or 156] move to `target`.
export function landmarkMotion(source, target) {
  const anchors = BORDER.map(([x, y]) => [x, y, x, y, BORDER_WEIGHT]);
  for (let i = 0; i < target.length; i += 2) anchors.push([target[i], target[i + 1], source[i], source[i + 1], 1]);
  const columns = [0, 1, 2, 3, 4].map((column) => Float64Array.from(anchors, (anchor) => anchor[column]));
  const motion = new Float32Array(2 * GRID * GRID);
  const weights = new Float64Array(anchors.length);
  for (let row = 0; row < GRID; row += 1) {
    for (let column = 0; column < GRID; column += 1) {
      const [moveX, moveY] = motionAt((column + 0.5) / GRID, (row + 0.5) / GRID, columns, weights);
      motion[row * GRID + column] = moveX;
      motion[GRID * GRID + row * GRID + column] = moveY;
    }
  }
  return motion;
}

// Return the motion at a position; the columns are x and y of the targets, of the sources, and the strengths.
function motionAt(x, y, [targetX, targetY, sourceX, sourceY, strengths], weights) {
  let [total, meanDx, meanDy, meanSx, meanSy] = [0, 0, 0, 0, 0];
  for (let i = 0; i < weights.length; i += 1) {
    const square = (targetX[i] - x) ** 2 + (targetY[i] - y) ** 2 + SOFTENING;
    weights[i] = strengths[i] / (square * Math.sqrt(square));
    total += weights[i];
    meanDx += weights[i] * (targetX[i] - x);
    meanDy += weights[i] * (targetY[i] - y);
    meanSx += weights[i] * (sourceX[i] - x);
    meanSy += weights[i] * (sourceY[i] - y);
  }
  [meanDx, meanDy, meanSx, meanSy] = [meanDx / total, meanDy / total, meanSx / total, meanSy / total];
  let [a11, a12, a22, b11, b12, b21, b22] = [RIDGE, 0, RIDGE, RIDGE, 0, 0, RIDGE];
  for (let i = 0; i < weights.length; i += 1) {
    const weight = weights[i] / total;
    const [dx, dy] = [targetX[i] - x - meanDx, targetY[i] - y - meanDy];
    const [sx, sy] = [sourceX[i] - x - meanSx, sourceY[i] - y - meanSy];
    a11 += weight * dx * dx;
    a12 += weight * dx * dy;
    a22 += weight * dy * dy;
    b11 += weight * dx * sx;
    b12 += weight * dx * sy;
    b21 += weight * dy * sx;
    b22 += weight * dy * sy;
  }
  const scale = 1 / (a11 * a22 - a12 * a12);
  const u = scale * (a22 * -meanDx + a12 * meanDy);
  const v = scale * (a12 * meanDx + a11 * -meanDy);
  return [u * b11 + v * b21 + meanSx, u * b12 + v * b22 + meanSy];
}

// Return a picture of RGB bytes [size, size, 3] sampled along a field of its size, as float32 [3, size, size] in
// [-1, 1].
export function warp(bytes, size, field) {
  const plane = size * size;
  const result = new Float32Array(3 * plane);
  const columns = new Int32Array(4);
  const [weightsX, weightsY] = [new Float64Array(4), new Float64Array(4)];
  for (let i = 0; i < plane; i += 1) {
    const x = (i % size) + field[i] * size;
    const y = Math.floor(i / size) + field[plane + i] * size;
    const [left, top] = [Math.floor(x), Math.floor(y)];
    cubicWeights(x - left, weightsX);
    cubicWeights(y - top, weightsY);
    for (let j = 0; j < 4; j += 1) columns[j] = 3 * clamp(left + j - 1, 0, size - 1);
    let [red, green, blue] = [0, 0, 0];
    for (let k = 0; k < 4; k += 1) {
      const start = 3 * size * clamp(top + k - 1, 0, size - 1);
      for (let j = 0; j < 4; j += 1) {
        const weight = weightsX[j] * weightsY[k];
        const at = start + columns[j];
        red += weight * bytes[at];
        green += weight * bytes[at + 1];
        blue += weight * bytes[at + 2];
      }
    }
    result[i] = red / 127.5 - 1;
    result[plane + i] = green / 127.5 - 1;
    result[2 * plane + i] = blue / 127.5 - 1;
  }
  return result;
}

// Write the weights of the four taps around a position between the second and the third.
function cubicWeights(t, weights) {
  const near = (distance) => ((A + 2) * distance - (A + 3)) * distance * distance + 1;
  const far = (distance) => ((A * distance - 5 * A) * distance + 8 * A) * distance - 4 * A;
  weights[0] = far(t + 1);
  weights[1] = near(t);
  weights[2] = near(1 - t);
  weights[3] = far(2 - t);
}

// Return the motion at a position, bilinear; beyond the centres of the outermost cells it is that of those.
export function sampleField(motion, x, y) {
  const [column, row] = [x, y].map((place) => clamp(place * GRID - 0.5, 0, GRID - 1));
  const [left, top] = [Math.floor(column), Math.floor(row)];
  const [right, bottom] = [left, top].map((low) => Math.min(low + 1, GRID - 1));
  return [0, GRID * GRID].map((plane) => {
    const along = (line) => {
      const [first, last] = [motion[plane + line * GRID + left], motion[plane + line * GRID + right]];
      return first + (column - left) * (last - first);
    };
    return along(top) + (row - top) * (along(bottom) - along(top));
  });
}

// Enlarge planes of `GRID` x `GRID` bilinearly to `size` x `size`.
export function enlarge(planes, size) {
  const count = planes.length / (GRID * GRID);
  const result = new Float32Array(count * size * size);
  const places = Array.from({ length: size }, (_, i) => {
    const place = Math.max(((i + 0.5) * GRID) / size - 0.5, 0);
    const low = Math.floor(place);
    return [low, Math.min(low + 1, GRID - 1), place - low];
  });
  for (let plane = 0; plane < count; plane += 1) {
    for (let row = 0; row < size; row += 1) {
      const [top, bottom, down] = places[row];
      const [upper, lower] = [plane * GRID * GRID + top * GRID, plane * GRID * GRID + bottom * GRID];
      for (let column = 0; column < size; column += 1) {
        const [left, right, across] = places[column];
        const above = planes[upper + left] + across * (planes[upper + right] - planes[upper + left]);
        const below = planes[lower + left] + across * (planes[lower + right] - planes[lower + left]);
        result[(plane * size + row) * size + column] = above + down * (below - above);
      }
    }
  }
  return result;
}
