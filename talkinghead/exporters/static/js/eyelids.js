// Eyelids that close, by a motion finer than the field that moves the rest of the face (landmarks/eyelids.py).
//
// The frame of an eye has its origin between its corners, one axis from corner to corner and the other across it,
// both in widths of the eye.

import { eyelids as constants, warpByLandmarks } from "./constants.js";
import { eyeOf, fitPoints } from "./gaze.js";
import { clamp } from "./geometry.js";
import { sampleField } from "./warp_by_landmarks.js";

const {
  BOX_HALF_SIDE, CLOSED, CLOSING_BEGINS, CORNERS, EPSILON, HIDDEN, LEAST_SPAN, LID_HEIGHT, LINE, NOSE_BASE, PROFILE, RIM,
  SKIN_ABOVE, SKIN_BELOW, SMALL, TINY, TURNED,
} = constants;
const { GRID } = warpByLandmarks;

// Return how lids close from a picture to a driver: the points [136 or 156] of the driver with the lids open, and the
// eyes that close; null where none does.
export function closingLids(points, target) {
  const opened = fitPoints(target, points.length);
  const [frames, goalFrames] = [points, opened].map(eyeFrames);
  const eyes = [];
  for (const number of [0, 1]) {
    const goalEye = eyeOf(opened, number);
    const [imageFrame, frame] = [frames[number], goalFrames[number]];
    const imageShape = toFrame(imageFrame, eyeOf(points, number));
    const goalShape = toFrame(frame, goalEye);
    // widths shrink when a head turns aside, and the height of the nose when it nods: the one that says less
    const scale = Math.min(frame.faceHeight / imageFrame.faceHeight, 1);
    const shape = imageShape.map((value, i) => (i % 2 ? value * scale : value));
    const openShare = opening(lidHeights(goalShape)) / Math.max(opening(lidHeights(shape)), EPSILON);
    // landmarks of a small eye are too uncertain to tell whether it closes
    const size = opening(lidHeights(imageShape)) * imageFrame.width;
    const share = clamp((CLOSING_BEGINS - openShare) / (CLOSING_BEGINS - CLOSED), 0, 1)
      * clamp((size - TINY) / (SMALL - TINY), 0, 1) * imageFrame.certainty * frame.certainty;
    if (share === 0) continue;
    const openShape = goalShape.map((value, i) => value + share * (shape[i] - value));
    const [upper, lower] = lidHeights(goalShape);
    eyes.push({
      frame, share, opened: lidHeights(openShape),
      closed: [upper + share * (lower - LINE / 2 - upper), lower + (share * LINE) / 2],
    });
    goalEye.set(fromFrame(frame, openShape));
  }
  return eyes.length ? { points: opened, eyes } : null;
}

// Change the field [2, size, size] of a picture, enlarged from `motion`, where lids close.
export function closeLids(field, motion, { eyes }, size) {
  for (const { frame, share, opened, closed } of eyes) {
    const half = BOX_HALF_SIDE * frame.width;
    const [left, top] = frame.origin.map((at) => Math.max(Math.trunc((at - half) * size), 0));
    const [right, bottom] = frame.origin.map((at) => Math.min(Math.trunc((at + half) * size) + 1, size));
    for (let row = top; row < bottom; row += 1) {
      for (let column = left; column < right; column += 1) {
        const [x, y] = [(column + 0.5) / size, (row + 0.5) / size];
        const [along, height] = toFrame(frame, [x, y]);
        const shift = (heightWhenOpen(along, height, opened, closed, share) - height) * frame.width;
        if (shift === 0) continue;
        const [shiftX, shiftY] = [shift * -frame.axis[1], shift * frame.axis[0]];
        const [moveX, moveY] = sampleField(motion, x + shiftX, y + shiftY);
        field[row * size + column] = moveX + shiftX;
        field[size * size + row * size + column] = moveY + shiftY;
      }
    }
  }
}

// Return where the pixel of an eye at a height was while the lids were open.
function heightWhenOpen(along, height, opened, closed, share) {
  const bow = Math.max(1 - (2 * along) ** 2, 0) / LID_HEIGHT;
  const [upper, lower, closedUpper, closedLower] = [...opened, ...closed].map((lid) => bow * lid);
  const [top, bottom] = [upper - SKIN_ABOVE, lower + SKIN_BELOW];
  const [seen, rim] = [lower + HIDDEN * share * (upper - lower), RIM * share * bow];
  const parts = [
    [top, closedUpper, top, upper], [closedUpper, closedLower, upper, seen], [closedLower, bottom, lower + rim, bottom],
  ];
  for (const [from, to, takenFrom, takenTo] of parts) {
    if (bow > 0 && height >= from && height < to) {
      return takenFrom + ((height - from) / Math.max(to - from, LEAST_SPAN)) * (takenTo - takenFrom);
    }
  }
  return height;
}

// Return the frames of the two eyes, as EyeAxes in Python.
function eyeFrames(points) {
  const at = (i) => [points[2 * i], points[2 * i + 1]];
  const middleOf = ([x, y], [otherX, otherY]) => [(x + otherX) / 2, (y + otherY) / 2];
  const corners = CORNERS.map((pair) => pair.map(at));
  const origins = corners.map(([first, last]) => middleOf(first, last));
  const middle = middleOf(...origins);
  const widths = corners.map(([[x, y], [lastX, lastY]]) => Math.max(Math.hypot(lastX - x, lastY - y), EPSILON));
  const nose = at(NOSE_BASE);
  return corners.map(([first, last], eye) => {
    const [origin, width] = [origins[eye], widths[eye]];
    const axis = [(last[0] - first[0]) / width, (last[1] - first[1]) / width];
    const faceHeight = ((nose[1] - middle[1]) * axis[0] - (nose[0] - middle[0]) * axis[1]) / width;
    const ahead = (origins[1][0] - origins[0][0]) * axis[0] + (origins[1][1] - origins[0][1]) * axis[1];
    const certainty = clamp((width / Math.max(...widths) - PROFILE) / (TURNED - PROFILE), 0, 1);
    return {
      origin, axis, width, faceHeight: Math.max(faceHeight, EPSILON), certainty: ahead > 0 && faceHeight > 0 ? certainty : 0,
    };
  });
}

// Return points in the frame of an eye, as [along, across, along, ...].
function toFrame({ origin, axis, width }, points) {
  return Array.from(points, (_, i) => {
    const start = i - (i % 2);
    const [dx, dy] = [points[start] - origin[0], points[start + 1] - origin[1]];
    return (i % 2 ? dy * axis[0] - dx * axis[1] : dx * axis[0] + dy * axis[1]) / width;
  });
}

// Return the points of such places, the inverse of `toFrame`.
function fromFrame({ origin, axis, width }, places) {
  return places.map((_, i) => {
    const start = i - (i % 2);
    const [along, across] = [places[start], places[start + 1]];
    const moved = i % 2 ? along * axis[1] + across * axis[0] : along * axis[0] - across * axis[1];
    return moved * width + origin[i % 2];
  });
}

// Return the heights of the upper and the lower lid of an eye in its frame.
function lidHeights(shape) {
  return [(shape[3] + shape[5]) / 2, (shape[9] + shape[11]) / 2];
}

function opening([upper, lower]) {
  return lower - upper;
}
