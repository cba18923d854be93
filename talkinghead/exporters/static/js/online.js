// Online retargeting: the driver's motion on a person, frame by frame, from past frames alone.

import { online as constants } from "./constants.js";
import { OnlineNeutralEstimator } from "./online_neutral.js";
import { retarget } from "./retarget.js";
import { OnlineSmoother } from "./smoothing.js";

const {
  DETECT_INTERVAL_S, LOST_DETECT_INTERVAL_S, MAX_LOST_S, MAX_SIZE_RATIO, MIN_CONFIDENCE, REJOIN_DISTANCE,
  SAME_FACE_DISTANCE, UNDETECTED_CONFIDENCE,
} = constants;

// The points of a person, driven frame by frame.
export class OnlineRetargeter {
  // `person` is the neutral face {shape, place, closed}; `points` are the person's at rest, float32 [136 or 156].
  constructor(detector, person, points) {
    Object.assign(this, { person, points, isSeen: false });
    this.tracker = new OnlineFaceTracker(detector);
    this.smoother = new OnlineSmoother();
    this.neutral = new OnlineNeutralEstimator();
  }

  // Return the person's points for the driver's frame at `t` seconds, rising. Without a face they stay.
  async next(frame, t) {
    const face = await this.tracker.next(frame, t);
    this.isSeen = face !== null;
    if (face === null) return this.points;
    if (this.tracker.isNew) {
      this.smoother.reset();
      this.neutral = new OnlineNeutralEstimator();
    }
    const count = face.landmarks.length;
    const points = this.smoother.next(Float32Array.of(...face.landmarks, ...face.irises), t);
    const landmarks = points.slice(0, count);
    const neutral = this.neutral.next({ landmarks, confidence: face.confidence }, t);
    this.points = retarget(landmarks, points.slice(count), this.person, neutral);
    return this.points;
  }
}

// The largest face of a stream of frames: detected every second and when it is lost, followed in between.
export class OnlineFaceTracker {
  constructor(detector) {
    Object.assign(this, { detector, lastFace: null, seenT: -Infinity, detectedT: -Infinity, isLost: true, isNew: false });
  }

  // Return the face in a frame at `t` seconds, null without one.
  async next(frame, t) {
    if (t - this.seenT > MAX_LOST_S) this.lastFace = null;
    const previous = this.lastFace;
    let face = await this.follow(frame);
    const interval = face || !this.isLost ? DETECT_INTERVAL_S : LOST_DETECT_INTERVAL_S;
    if (t - this.detectedT >= interval || (face === null && !this.isLost)) {
      this.detectedT = t;
      face = this.chooseFace(face, (await this.detector.find(frame)).filter(isValidFace));
    }
    this.isLost = face === null;
    if (face !== null) {
      this.isNew = previous === null || !isNear(face, previous, REJOIN_DISTANCE);
      Object.assign(this, { lastFace: face, seenT: t });
    }
    return face;
  }

  async follow(frame) {
    if (this.lastFace === null) return null;
    const face = await this.detector.follow(frame, this.lastFace.landmarks);
    // a lost face is not continued at low confidence
    if (face === null || !isValidFace(face) || (this.isLost && face.confidence < MIN_CONFIDENCE)) return null;
    return face;
  }

  // Return the face to follow from now on: the one followed so far or one of those detected.
  chooseFace(followed, detected) {
    if (followed === null) {
      const near = detected.filter((face) => this.lastFace !== null && isNear(face, this.lastFace, REJOIN_DISTANCE));
      return near[0] ?? detected[0] ?? null;
    }
    if (detected.some((face) => isNear(face, followed, SAME_FACE_DISTANCE))) return followed;
    if (detected.length && followed.confidence < MIN_CONFIDENCE) return detected[0];
    // a face in profile or covered is not detected, however well landmarks seem to fit
    return { ...followed, confidence: followed.confidence * UNDETECTED_CONFIDENCE };
  }
}

// Return whether two faces are within so many sides of the other and of similar size.
function isNear(face, other, maxSides) {
  const isClose = Math.hypot(face.box.x - other.box.x, face.box.y - other.box.y) <= maxSides * other.box.side;
  const ratio = face.box.side / other.box.side;
  return isClose && ratio >= 1 / MAX_SIZE_RATIO && ratio <= MAX_SIZE_RATIO;
}

// Return whether a detection can be a face: finite values, and landmarks that are not all on a line.
function isValidFace({ landmarks, irises, confidence }) {
  if (![confidence, ...landmarks, ...irises].every(Number.isFinite)) return false;
  return [0, 1].every((axis) => {
    const values = landmarks.filter((_, i) => i % 2 === axis);
    return Math.max(...values) > Math.min(...values);
  });
}
