// Place and size of faces, from their landmarks. Points are flat arrays: x and y of the first, of the second ...

// Return the centre, the width and height, and the longer side of the landmarks' bounding box.
export function boundingBox(landmarks) {
  const low = [Infinity, Infinity];
  const high = [-Infinity, -Infinity];
  for (let i = 0; i < landmarks.length; i += 1) {
    low[i % 2] = Math.min(low[i % 2], landmarks[i]);
    high[i % 2] = Math.max(high[i % 2], landmarks[i]);
  }
  const [width, height] = [high[0] - low[0], high[1] - low[1]];
  return { x: (low[0] + high[0]) / 2, y: (low[1] + high[1]) / 2, width, height, side: Math.max(width, height) };
}

// Return the centroid and the root-mean-square radius of a face.
export function centreAndScale(landmarks) {
  const count = landmarks.length / 2;
  let x = 0;
  let y = 0;
  for (let i = 0; i < count; i += 1) {
    x += landmarks[2 * i] / count;
    y += landmarks[2 * i + 1] / count;
  }
  let squares = 0;
  for (let i = 0; i < count; i += 1) {
    squares += ((landmarks[2 * i] - x) ** 2 + (landmarks[2 * i + 1] - y) ** 2) / count;
  }
  return { x, y, scale: Math.sqrt(squares) };
}

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
