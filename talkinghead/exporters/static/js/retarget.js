// Transfer of a driver's head motion and expression to another person's face with its own proportions.
//
// A neutral face is {shape, place, closed}: the 3D shape float64 [68 * 3], the position of its origin, and the
// openings of the two closed eyes as shares of the open ones'.

import { retarget as constants } from "./constants.js";
import { retargetIrises } from "./gaze.js";
import { boundingBox, centreAndScale, clamp } from "./geometry.js";
import { centred, fitPose, flatten, pitch, project, rigidSize, tilted } from "./head_poses.js";
import { median, percentile } from "./statistics.js";

const {
  BROWS, CHIN, CHIN_SHARES, EPSILON, EYES, JAW, LID_MEETING_POINT, LIPS, LOWER_LIP, MAX_CLOSED_OPENING, MAX_COORDINATE,
  MAX_EYE_OPENING, MEAN_FACE, MIN_CLOSED_OPENING, MIN_COORDINATE, MIRROR_INDEX, MOUTH, OPEN_EYE_PERCENTILE,
  RESTING_MOUTH_PERCENTILE, TOUCHING_LIPS_GAP,
} = constants;
const SHAPE_ROUNDS = 3;
const range = ([start, end]) => Array.from({ length: end - start }, (_, i) => start + i);

// Estimate the neutral face behind the landmarks [136] of some frames of one person.
export function neutralFace(faces) {
  const size = median(faces.map((landmarks) => centreAndScale(landmarks).scale));
  let shape = centred(Float64Array.from(MEAN_FACE.flat(), (value) => value * size));
  let poses;
  let flat;
  for (let round = 0; round < SHAPE_ROUNDS; round += 1) {
    poses = faces.map((landmarks) => fitPose(landmarks, shape));
    flat = faces.map((landmarks, n) => flatten(poses[n], landmarks, shape));
    const middle = medianFace(flat);
    // symmetric, because the shape would otherwise absorb some of the rotation
    const mirrored = (i, axis) => (axis ? 1 : -1) * middle[2 * MIRROR_INDEX[i] + axis];
    shape = centred(withPoints(shape, middle.map((value, i) => (value + mirrored(i >> 1, i % 2)) / 2)));
  }
  shape = withPoints(shape, neutralPoints(flat));
  return {
    shape: centred(tilted(shape, median(poses.map(pitch)))),
    place: [0, 1].map((axis) => median(poses.map(({ place }) => place[axis]))),
    closed: closedOpenings(flat),
  };
}

// Transfer a driver's motion to a person's face, and the driver's gaze.
//
// `landmarks` [136] and `irises` [20] are the driver's; both faces are neutral ones, the person's in fractions of
// the crop. Returns float32 [156], fractions of the crop, the landmarks inside it.
export function retarget(landmarks, irises, person, driver) {
  const pose = fitPose(landmarks, driver.shape);
  const expression = flatten(pose, landmarks, driver.shape).map((value, i) => value - driver.shape[3 * (i >> 1) + (i % 2)]);
  const scale = rigidSize(person.shape) / rigidSize(driver.shape);
  const place = pose.place.map((value, axis) => (value - driver.place[axis]) * scale + person.place[axis]);
  const shape = addExpression(expression, driver, person, scale);
  const moved = fitIntoCrop(project({ ...pose, place }, shape));
  return Float32Array.of(...moved, ...retargetIrises(irises, landmarks, moved));
}

// Add an expression, displacements [136] of the driver's shape, to the person's shape.
function addExpression(expression, driver, person, scale) {
  const shape = Float64Array.from(person.shape);
  const mouthScale = width(spread(person.shape), 48, 54) / width(spread(driver.shape), 48, 54);
  for (const [part, factor] of [[JAW, scale], [BROWS, scale], [MOUTH, mouthScale]]) {
    for (const i of range(part)) {
      shape[3 * i] += expression[2 * i] * factor;
      shape[3 * i + 1] += expression[2 * i + 1] * factor;
    }
  }
  for (const [upper, lower] of LIPS) { // lips may touch, but not cross
    const overlap = Math.min(shape[3 * lower + 1] - shape[3 * upper + 1], 0) / 2;
    shape[3 * upper + 1] += overlap;
    shape[3 * lower + 1] -= overlap;
  }
  const driverPoints = spread(driver.shape);
  const posed = driverPoints.map((value, i) => value + expression[i]);
  for (const [number, eye] of EYES.entries()) {
    const opened = opening(posed, eye) / Math.max(opening(driverPoints, eye), EPSILON);
    const closed = driver.closed[number];
    moveLids(shape, eye, clamp((opened - closed) / (1 - closed), 0, MAX_EYE_OPENING));
  }
  return shape;
}

function moveLids(shape, eye, share) {
  for (const [upper, lower] of eye.slice(1, 3)) {
    for (let axis = 0; axis < 3; axis += 1) {
      const [high, low] = [3 * upper + axis, 3 * lower + axis];
      const meetingPoint = shape[low] + LID_MEETING_POINT * (shape[high] - shape[low]);
      shape[high] = meetingPoint + share * (shape[high] - meetingPoint);
      shape[low] = meetingPoint + share * (shape[low] - meetingPoint);
    }
  }
}

// Return the neutral face [136] of frontal faces: the median, with mouth and chin from frames with the mouth at
// rest and lids from open eyes.
function neutralPoints(flat) {
  const face = medianFace(flat);
  const copyMedian = (frames, points) => {
    const middle = medianFace(frames);
    for (const i of points) face.set([middle[2 * i], middle[2 * i + 1]], 2 * i);
  };
  const openings = flat.map(mouthOpening);
  const rest = percentile(openings, RESTING_MOUTH_PERCENTILE);
  copyMedian(flat.filter((_, n) => openings[n] <= rest), [...range(MOUTH), ...range(CHIN)]);
  for (const eye of EYES) {
    const opened = flat.map((points) => opening(points, eye));
    const least = percentile(opened, OPEN_EYE_PERCENTILE);
    copyMedian(flat.filter((_, n) => opened[n] >= least), eye.slice(1, 3).flat());
  }
  // shut the mouth of a person who never shuts it
  const excess = Math.max(0, mouthOpening(face) - TOUCHING_LIPS_GAP) * width(face, 48, 54);
  for (const i of LOWER_LIP) face[2 * i + 1] -= excess;
  for (const [n, i] of range(CHIN).entries()) face[2 * i + 1] -= excess * CHIN_SHARES[n];
  return face;
}

// Return the openings of the left and right closed eye, as shares of the open eyes'.
function closedOpenings(flat) {
  return EYES.map((eye) => {
    const opened = flat.map((points) => opening(points, eye));
    const least = percentile(opened, OPEN_EYE_PERCENTILE);
    const openEye = median(opened.filter((value) => value >= least));
    return clamp(openEye > 0 ? percentile(opened, 1) / openEye : 0, MIN_CLOSED_OPENING, MAX_CLOSED_OPENING);
  });
}

// Return the opening of the mouth in its widths.
function mouthOpening(points) {
  return gap(points, LIPS) / width(points, 48, 54);
}

// Return the opening of an eye in its widths.
function opening(points, [first, onePair, otherPair, last]) {
  return Math.max(gap(points, [onePair, otherPair]), 0) / width(points, first, last);
}

// Return the mean vertical distance of pairs of an upper and a lower point.
function gap(points, pairs) {
  return pairs.reduce((sum, [upper, lower]) => sum + points[2 * lower + 1] - points[2 * upper + 1], 0) / pairs.length;
}

function width(points, left, right) {
  return Math.max(Math.hypot(points[2 * right] - points[2 * left], points[2 * right + 1] - points[2 * left + 1]), EPSILON);
}

// Return x and y of a shape's points.
const spread = (shape) => Float64Array.from({ length: (shape.length / 3) * 2 }, (_, i) => shape[3 * (i >> 1) + (i % 2)]);

// Return a shape with other x and y.
const withPoints = (shape, points) => shape.map((value, i) => (i % 3 === 2 ? value : points[2 * Math.floor(i / 3) + (i % 3)]));

// Return the median of each coordinate of faces.
const medianFace = (faces) => Float64Array.from(faces[0], (_, i) => median(faces.map((face) => face[i])));

// Shrink and shift a face that extends beyond the crop until it is inside.
function fitIntoCrop(points) {
  const { x, y, width: wide, height: high, side } = boundingBox(points);
  const shrink = Math.min(1, (MAX_COORDINATE - MIN_COORDINATE) / side);
  const inside = (centre, length) => {
    const half = (length / 2) * shrink;
    return clamp(centre, MIN_COORDINATE + half, MAX_COORDINATE - half);
  };
  const [centre, place] = [[x, y], [inside(x, wide), inside(y, high)]];
  return points.map((value, i) => (value - centre[i % 2]) * shrink + place[i % 2]);
}
