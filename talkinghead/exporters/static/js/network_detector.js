// Landmark detector: networks find faces, 68 points and the irises.

import { networkDetector as constants } from "./constants.js";
import { boundingBox, clamp } from "./geometry.js";
import { cropOfLandmarks, sampleCrops } from "./oriented_crop.js";

const {
  CROP_SIDE, IRIS_POINTS, LARGE_FACE_SHARE, MAX_GROWTH, MAX_SHIFT, MAX_TURN, MIN_DETECTED_CONFIDENCE, MIN_DISTANCE,
  MIN_PRESENCE, MIN_TRACKED_CONFIDENCE, PERFECT_SCALE, POINTS, SIZE, WORST_SCALE,
} = constants;
const ROWS = POINTS + 2 * IRIS_POINTS + 1; // of a crop: x, y and log scale of each point; presence

// A face is {landmarks, confidence, irises, box}: points as float32 in pixels, confidence 0..1.
export class NetworkDetector {
  // `runNetwork` maps pictures float32 [N, 3, 128, 128] to rows float32 [N, 79, 3].
  constructor(finder, runNetwork) {
    Object.assign(this, { finder, runNetwork });
  }

  // Find all faces of a frame, the largest first.
  async find(frame) {
    let faces = await this.confirm(frame, await this.finder.find(frame, CROP_SIDE));
    const longer = Math.max(frame.width, frame.height);
    if (!faces.some((face) => face.box.side >= LARGE_FACE_SHARE * longer)) {
      const small = await this.confirm(frame, await this.finder.findSmall(frame, CROP_SIDE));
      faces = withoutRepeats([...faces, ...small]);
    }
    return faces.sort((one, other) => other.box.side - one.box.side);
  }

  // Return the face that was at `near` in the frame before, or null where it is lost.
  async follow(frame, near) {
    const [face] = await this.fit(frame, [cropOfLandmarks(near, CROP_SIDE)], true);
    return face.confidence < MIN_TRACKED_CONFIDENCE ? null : face;
  }

  // Return the faces that the landmark network sees in the crops, each face once.
  async confirm(frame, crops) {
    const faces = await this.fit(frame, crops, false);
    return withoutRepeats(faces.filter((face) => face.confidence >= MIN_DETECTED_CONFIDENCE));
  }

  // Return the face in each crop; it is fitted once more where it lies elsewhere in the crop.
  async fit(frame, crops, isCertain) {
    const faces = await this.run(frame, crops);
    const better = faces.map((face) => cropOfLandmarks(face.landmarks, CROP_SIDE));
    const moved = [...faces.keys()].filter((index) => !isCertain || hasMoved(crops[index], better[index]));
    const refitted = await this.run(frame, moved.map((index) => better[index]));
    for (const [place, index] of moved.entries()) faces[index] = refitted[place];
    return faces;
  }

  async run(frame, crops) {
    if (!crops.length) return [];
    const rows = await this.runNetwork(sampleCrops(frame, crops, SIZE), crops.length);
    return crops.map((crop, index) => faceOfRows(crop, rows.subarray(3 * ROWS * index, 3 * ROWS * (index + 1))));
  }
}

function faceOfRows(crop, rows) {
  const points = new Float32Array(2 * (ROWS - 1));
  for (let i = 0; i < ROWS - 1; i += 1) {
    points.set(crop.toFrame(rows[3 * i], rows[3 * i + 1]), 2 * i);
  }
  const landmarks = points.slice(0, 2 * POINTS);
  return { landmarks, irises: points.slice(2 * POINTS), confidence: confidence(rows), box: boundingBox(landmarks) };
}

// Return the confidence of a face from the network's rows; 0 without a face.
function confidence(rows) {
  const presence = 1 / (1 + Math.exp(-rows[3 * (ROWS - 1)]));
  let scale = 0;
  for (let i = 0; i < POINTS; i += 1) scale += rows[3 * i + 2] / POINTS;
  const certainty = (WORST_SCALE - scale) / (WORST_SCALE - PERFECT_SCALE);
  return presence < MIN_PRESENCE ? 0 : presence * clamp(certainty, 1e-3, 1);
}

// Return faces of which several crops show one, once: the most certain.
function withoutRepeats(faces) {
  const chosen = [];
  for (const face of [...faces].sort((one, other) => other.confidence - one.confidence)) {
    const { x, y, side } = face.box;
    const isNew = ({ box }) => Math.hypot(x - box.x, y - box.y) > MIN_DISTANCE * Math.max(side, box.side);
    if (chosen.every(isNew)) chosen.push(face);
  }
  return chosen;
}

// Return whether two crops differ so much that a face in the other is fitted better.
function hasMoved(crop, other) {
  const growth = other.side / crop.side;
  const turn = other.angle - crop.angle;
  return Math.hypot(other.x - crop.x, other.y - crop.y) > MAX_SHIFT * crop.side
    || !(growth > 1 / MAX_GROWTH && growth < MAX_GROWTH)
    || Math.abs(Math.atan2(Math.sin(turn), Math.cos(turn))) > MAX_TURN;
}
