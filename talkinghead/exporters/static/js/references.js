// A person's reference images, and the views of them that a reference-guided generator takes: warped to the
// driving landmarks, and the background plate of the scene.

import { references as constants } from "./constants.js";
import { closeLids, closingLids } from "./eyelids.js";
import { pointsToWarp } from "./gaze.js";
import { boundingBox } from "./geometry.js";
import { enlarge, landmarkMotion, warp } from "./warp_by_landmarks.js";

const { GRID, HEAD_EDGE, HEAD_HALF_HEIGHT, HEAD_HALF_WIDTH, HEAD_RAISE, POINTS, WEIGHT_BAND } = constants;
const LANDMARKS = 2 * POINTS; // numbers of the landmarks among the points

export class ReferenceViewer {
  // `description` is that of person.json; `bytes` are the images [T, S, S, 3], then the plates [P, S, S, 4].
  constructor({ size, scene, points: references }, bytes) {
    const imageBytes = 3 * size * size;
    const plateBytes = 4 * size * size;
    const plates = bytes.subarray(references.length * imageBytes);
    const plateOf = (number) => (scene === null ? number : 0);
    Object.assign(this, { size, scene });
    this.references = references.map((points, number) => ({
      points: Float32Array.from(points),
      image: bytes.subarray(imageBytes * number, imageBytes * (number + 1)),
      plate: plates.subarray(plateBytes * plateOf(number), plateBytes * (plateOf(number) + 1)),
    }));
  }

  // Return the views for points [136 or 156] in fractions of the crop, by name [array, shape].
  view(target) {
    const views = this.viewWeighted(this.references, target);
    if (this.scene !== null) {
      // the head may come from an image of any scene, its surroundings only from the image of `scene`
      const surroundings = this.viewWeighted([this.references[this.scene]], target);
      const outside = outsideHead(landmarksOf(target));
      approach(views.warped, surroundings.warped, enlarge(outside, this.size));
      approach(views.motion, surroundings.motion, outside);
      views.plate = surroundings.plate;
    }
    const side = this.size;
    return {
      warped: [views.warped, [1, 3, side, side]], plate: [views.plate, [1, 4, side, side]], motion: [views.motion, [1, 2, GRID, GRID]],
    };
  }

  // Return the views of the references that are nearest to the target, weighted.
  viewWeighted(references, target) {
    const weights = referenceWeights(references.map(({ points }) => landmarksOf(points)), landmarksOf(target));
    const views = {
      warped: new Float32Array(3 * this.size ** 2), plate: new Float32Array(4 * this.size ** 2), motion: new Float32Array(2 * GRID ** 2),
    };
    for (const [number, { points, image, plate }] of references.entries()) {
      if (weights[number] === 0) continue;
      const lids = closingLids(points, target);
      const motion = landmarkMotion(...pointsToWarp(points, lids ? lids.points : target));
      const field = enlarge(motion, this.size);
      if (lids) closeLids(field, motion, lids, this.size);
      addScaled(views.motion, motion, weights[number]);
      addScaled(views.warped, warp(image, this.size, field), weights[number]);
      addScaled(views.plate, toPlanes(plate), weights[number]);
    }
    return views;
  }
}

function landmarksOf(points) {
  return points.subarray(0, LANDMARKS);
}

// Return the weight of each reference for a target; continuous, so that nothing jumps.
function referenceWeights(landmarks, target) {
  const distances = landmarks.map((points) => {
    let sum = 0;
    for (let i = 0; i < target.length; i += 2) sum += Math.hypot(points[i] - target[i], points[i + 1] - target[i + 1]);
    return sum / (target.length / 2);
  });
  const nearest = Math.min(...distances);
  const weights = distances.map((distance) => Math.max(1 - (distance - nearest) / WEIGHT_BAND, 0));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

// Return how far each position of a grid lies outside the head, from 0 to 1; the head is an ellipse.
function outsideHead(landmarks) {
  const { x, y, width, height } = boundingBox(landmarks);
  return Float32Array.from({ length: GRID * GRID }, (_, i) => {
    const across = (((i % GRID) + 0.5) / GRID - x) / (HEAD_HALF_WIDTH * width);
    const down = ((Math.floor(i / GRID) + 0.5) / GRID - (y - HEAD_RAISE * height)) / (HEAD_HALF_HEIGHT * height);
    return 1 / (1 + Math.exp(-(Math.hypot(across, down) - 1) / HEAD_EDGE));
  });
}

// Move planes towards others by a mask of one plane.
function approach(planes, others, mask) {
  for (let i = 0; i < planes.length; i += 1) planes[i] += mask[i % mask.length] * (others[i] - planes[i]);
}

function addScaled(sum, values, scale) {
  for (let i = 0; i < sum.length; i += 1) sum[i] += scale * values[i];
}

// Return a plate of bytes [S, S, 4] as planes: colours in [-1, 1], and how far it was observed, from 0 to 1.
function toPlanes(plate) {
  const count = plate.length / 4;
  const planes = new Float32Array(plate.length);
  for (let i = 0; i < count; i += 1) {
    for (let channel = 0; channel < 3; channel += 1) planes[channel * count + i] = plate[4 * i + channel] / 127.5 - 1;
    planes[3 * count + i] = plate[4 * i + 3] / 255;
  }
  return planes;
}
