// Online estimate of a driver's neutral face that improves with every frame.

import { onlineNeutral as constants } from "./constants.js";
import { clamp } from "./geometry.js";
import { neutralFace } from "./retarget.js";

const { MAX_FACES, MAX_INTERVAL_S, MAX_STEP_S, MIN_CONFIDENCE, NEW_FACES, TIME_CONSTANT_S } = constants;

export class OnlineNeutralEstimator {
  constructor() {
    Object.assign(this, {
      faces: [], isConfident: false, newFaces: 0, firstT: 0, keptT: 0, lastT: 0, target: null, current: null,
    });
  }

  // Return the estimate {shape, place, closed} after a face seen at `t` seconds, rising.
  next(face, t) {
    this.add(face, t);
    if (this.target === null || this.newFaces >= NEW_FACES) {
      this.target = neutralFace(this.faces);
      this.newFaces = 0;
    }
    const share = 1 - Math.exp(-clamp(t - this.lastT, 0, MAX_STEP_S) / TIME_CONSTANT_S);
    this.current = approach(this.current ?? this.target, this.target, share);
    this.lastT = t;
    return this.current;
  }

  // Keep a face, unless the last one is too recent or it is less reliable than those kept.
  add(face, t) {
    const isConfident = face.confidence >= MIN_CONFIDENCE;
    if (!this.faces.length) {
      this.firstT = this.lastT = t;
    } else if (isConfident && !this.isConfident) {
      this.faces = []; // faces of low confidence serve only until the first reliable one
      this.target = null;
    } else {
      const interval = Math.min((t - this.firstT) / MAX_FACES, MAX_INTERVAL_S);
      if ((this.isConfident && !isConfident) || t - this.keptT < interval) return;
    }
    this.isConfident = this.isConfident || isConfident;
    this.faces = [...this.faces, face.landmarks].slice(-MAX_FACES);
    this.keptT = t;
    this.newFaces += 1;
  }
}

// Return a neutral face moved by a share towards another.
function approach(current, target, share) {
  const move = (name) => current[name].map((value, i) => value + share * (target[name][i] - value));
  return { shape: move("shape"), place: move("place"), closed: move("closed") };
}
