// Head poses: a 3D shape of a face fitted to its points by a scaled orthographic camera.
//
// A shape is float64 [68 * 3], points [68 * 2]; a pose is {scale, rotation, place} with a rotation of 9 values,
// row by row.

import { retarget as constants } from "./constants.js";

const { DAMPING, POSE_ITERATIONS, RIGID_WEIGHTS } = constants;
const RIGID = RIGID_WEIGHTS.flatMap((weight, i) => (weight > 0 ? [[i, weight]] : []));
const IDENTITY = [1, 0, 0, 0, 1, 0, 0, 0, 1];
const MAX_SWEEPS = 50; // of Jacobi's method, which needs about six

// Return the root-mean-square radius of the rigid parts of a shape, seen from the front.
export function rigidSize(shape) {
  return Math.sqrt(RIGID.reduce((sum, [i, weight]) => sum + weight * (shape[3 * i] ** 2 + shape[3 * i + 1] ** 2), 0));
}

// Return a shape [68 * 3] with the centre of its rigid parts at the origin.
export function centred(shape) {
  const centre = [0, 1, 2].map((axis) => RIGID.reduce((sum, [i, weight]) => sum + weight * shape[3 * i + axis], 0));
  return shape.map((value, i) => value - centre[i % 3]);
}

// Fit the rigid parts of a centred shape to points by least squares.
//
// Alternately, the unknown depths of the points follow from the pose, and the pose is fitted to the points in 3D.
export function fitPose(points, shape) {
  const place = [0, 1].map((axis) => RIGID.reduce((sum, [i, weight]) => sum + weight * points[2 * i + axis], 0));
  const flat = RIGID.map(([i]) => [points[2 * i] - place[0], points[2 * i + 1] - place[1]]);
  let rotation = IDENTITY;
  const squares = RIGID.reduce((sum, [, weight], n) => sum + weight * (flat[n][0] ** 2 + flat[n][1] ** 2), 0);
  let scale = Math.sqrt(squares) / rigidSize(shape);
  for (let round = 0; round < POSE_ITERATIONS; round += 1) {
    const spread = new Float64Array(9);
    for (const [n, [i, weight]] of RIGID.entries()) {
      const depth = scale * dotRow(rotation, 2, shape, i);
      for (let j = 0; j < 3; j += 1) {
        const value = weight * shape[3 * i + j];
        spread[j] += flat[n][0] * value;
        spread[3 + j] += flat[n][1] * value;
        spread[6 + j] += depth * value;
      }
    }
    rotation = nearestRotation(spread);
    let [across, size] = [0, 0];
    for (const [n, [i, weight]] of RIGID.entries()) {
      const [x, y] = [dotRow(rotation, 0, shape, i), dotRow(rotation, 1, shape, i)];
      across += weight * (x * flat[n][0] + y * flat[n][1]);
      size += weight * (x * x + y * y);
    }
    scale = across / size;
  }
  return { scale, rotation, place };
}

// Rotate a face to the front: the x and y [68 * 2] that, with a shape's depth, project to its points.
export function flatten({ scale, rotation, place }, points, shape) {
  const [a, b, , c, d] = rotation;
  // (R' R + damping)^-1 R' of the part R of the rotation in the image plane
  const [p, q, s] = [a * a + c * c + DAMPING, a * b + c * d, b * b + d * d + DAMPING];
  const determinant = p * s - q * q;
  const damped = [s * a - q * b, s * c - q * d, p * b - q * a, p * d - q * c].map((value) => value / determinant);
  const flat = new Float64Array(points.length);
  for (let i = 0; i < points.length / 2; i += 1) {
    const x = (points[2 * i] - place[0]) / scale - dotRow(rotation, 0, shape, i);
    const y = (points[2 * i + 1] - place[1]) / scale - dotRow(rotation, 1, shape, i);
    flat[2 * i] = shape[3 * i] + damped[0] * x + damped[1] * y;
    flat[2 * i + 1] = shape[3 * i + 1] + damped[2] * x + damped[3] * y;
  }
  return flat;
}

// Project a shape in a pose to points [68 * 2].
export function project({ scale, rotation, place }, shape) {
  const points = new Float64Array((shape.length / 3) * 2);
  for (let i = 0; i < points.length / 2; i += 1) {
    points[2 * i] = dotRow(rotation, 0, shape, i) * scale + place[0];
    points[2 * i + 1] = dotRow(rotation, 1, shape, i) * scale + place[1];
  }
  return points;
}

// Return the pitch in radians of a rotation by pitch, then yaw, then roll.
export const pitch = ({ rotation }) => Math.atan2(rotation[7], rotation[8]);

// Return a shape rotated by a pitch.
export function tilted(shape, angle) {
  const [cosine, sine] = [Math.cos(angle), Math.sin(angle)];
  return shape.map((value, i) => {
    if (i % 3 === 1) return cosine * value - sine * shape[i + 1];
    return i % 3 === 2 ? sine * shape[i - 1] + cosine * value : value;
  });
}

function dotRow(rotation, row, shape, point) {
  return rotation[3 * row] * shape[3 * point] + rotation[3 * row + 1] * shape[3 * point + 1]
    + rotation[3 * row + 2] * shape[3 * point + 2];
}

// Return the rotation nearest to a matrix: of the quaternion that is the largest eigenvector of Horn's matrix.
function nearestRotation([xx, xy, xz, yx, yy, yz, zx, zy, zz]) {
  const [w, x, y, z] = largestEigenvector([
    [xx + yy + zz, zy - yz, xz - zx, yx - xy],
    [zy - yz, xx - yy - zz, yx + xy, zx + xz],
    [xz - zx, yx + xy, yy - xx - zz, zy + yz],
    [yx - xy, zx + xz, zy + yz, zz - xx - yy],
  ]);
  return [
    w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y),
    2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x),
    2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z,
  ];
}

// Return the unit eigenvector of the largest eigenvalue of a symmetric 4 x 4 matrix, by Jacobi's method.
function largestEigenvector(matrix) {
  const vectors = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]; // columns are the eigenvectors
  for (let sweep = 0; sweep < MAX_SWEEPS; sweep += 1) {
    let hasRotated = false;
    for (let i = 0; i < 3; i += 1) {
      for (let j = i + 1; j < 4; j += 1) hasRotated = rotateAway(matrix, vectors, i, j) || hasRotated;
    }
    if (!hasRotated) break;
  }
  const values = matrix.map((row, i) => row[i]);
  const best = values.indexOf(Math.max(...values));
  return vectors.map((row) => row[best]);
}

// Rotate two axes of a symmetric matrix so that its element between them becomes 0; return whether it was not.
function rotateAway(matrix, vectors, i, j) {
  const [a, b, off] = [matrix[i][i], matrix[j][j], matrix[i][j]];
  if (Math.abs(off) <= Number.EPSILON * Math.sqrt(Math.abs(a * b))) return false;
  const ratio = (b - a) / (2 * off);
  const tangent = (ratio < 0 ? -1 : 1) / (Math.abs(ratio) + Math.hypot(1, ratio));
  const cosine = 1 / Math.hypot(1, tangent);
  const sine = tangent * cosine;
  for (const row of [...matrix, ...vectors]) {
    [row[i], row[j]] = [cosine * row[i] - sine * row[j], sine * row[i] + cosine * row[j]];
  }
  for (let k = 0; k < 4; k += 1) {
    [matrix[i][k], matrix[j][k]] = [cosine * matrix[i][k] - sine * matrix[j][k], sine * matrix[i][k] + cosine * matrix[j][k]];
  }
  return true;
}
