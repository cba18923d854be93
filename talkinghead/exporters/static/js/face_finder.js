// Faces of a whole frame, found by the detection network at one scale or more.

import { faceFinder as constants } from "./constants.js";
import { OrientedCrop, sampleCrops } from "./oriented_crop.js";

const { MAX_FACES, MIN_DISTANCE, MIN_SCORE, MIN_TILED_SIDE, SIZE, TILE_SHARE } = constants;
const VALUES = 6; // of a cell: logit, centre, logarithm of the radius, cosine and sine of the roll

export class FaceFinder {
  // `runNetwork` maps pictures float32 [N, 3, 160, 160] to cells float32 [N, 400, 6].
  constructor(runNetwork) {
    this.runNetwork = runNetwork;
  }

  // Return crops around the faces of a frame that are not small in it, the most certain first.
  find(frame, side) {
    const whole = new OrientedCrop(frame.width / 2, frame.height / 2, Math.max(frame.width, frame.height));
    return this.search(frame, [whole], side);
  }

  // Find the faces in parts of a large frame; none in a small one, of which parts show no more.
  async findSmall(frame, side) {
    if (Math.max(frame.width, frame.height) < MIN_TILED_SIDE) return [];
    return this.search(frame, tiles(frame.width, frame.height), side);
  }

  async search(frame, windows, side) {
    const cells = await this.runNetwork(sampleCrops(frame, windows, SIZE), windows.length);
    const count = cells.length / VALUES / windows.length;
    const faces = [];
    for (const [number, window] of windows.entries()) {
      for (let cell = 0; cell < count; cell += 1) {
        const at = VALUES * (number * count + cell);
        const [logit, u, v, logRadius, cosine, sine] = cells.subarray(at, at + VALUES);
        const score = 1 / (1 + Math.exp(-logit));
        if (score < MIN_SCORE) continue;
        const [x, y] = window.toFrame(u, v);
        const radius = Math.max(Math.exp(logRadius) * window.side, 0.5);
        faces.push({ score, crop: new OrientedCrop(x, y, radius, Math.atan2(sine, cosine)) });
      }
    }
    const chosen = [];
    for (const { crop } of faces.sort((one, other) => other.score - one.score)) {
      if (chosen.length < MAX_FACES && chosen.every((other) => areApart(crop, other))) chosen.push(crop);
    }
    return chosen.map((face) => new OrientedCrop(face.x, face.y, face.side * side, face.angle));
  }
}

// Return overlapping squares that cover a frame.
function tiles(width, height) {
  const side = TILE_SHARE * Math.max(width, height);
  const centres = (length) => {
    const count = length <= side ? 1 : Math.ceil((length - 0.2 * side) / (0.8 * side));
    if (count === 1) return [length / 2];
    return Array.from({ length: count }, (_, i) => side / 2 + (i * (length - side)) / (count - 1));
  };
  return centres(height).flatMap((y) => centres(width).map((x) => new OrientedCrop(x, y, side)));
}

// Return whether two faces, whose sides are their radii, are not one.
function areApart(one, other) {
  return Math.hypot(one.x - other.x, one.y - other.y) > MIN_DISTANCE * Math.max(one.side, other.side);
}
