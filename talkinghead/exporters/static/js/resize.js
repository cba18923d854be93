// Antialiased shrinking of a picture of bytes, as PyTorch's `interpolate(antialias=True)` does it: the weights
// are rounded to 16 bits, and the columns are shrunk to bytes before the rows.

// Shrink the window {data, width, left, top, cols, rows} of a picture of RGBA bytes to another size.
export function resizeAntialiased(window, cols, rows) {
  const { data, width, left, top } = window;
  const narrow = new Uint8ClampedArray(4 * cols * window.rows);
  shrinkLines(data, 4 * (top * width + left), [4, 4 * width], narrow, [4, 4 * cols], {
    length: window.cols, shorter: cols, lines: window.rows,
  });
  const small = new Uint8ClampedArray(4 * cols * rows);
  shrinkLines(narrow, 0, [4 * cols, 4], small, [4 * cols, 4], { length: window.rows, shorter: rows, lines: cols });
  return { data: small, width: cols, height: rows, left: 0, top: 0, cols, rows };
}

// Shrink lines of pixels. Steps are [to the next pixel of a line, to the next line].
function shrinkLines(source, start, steps, target, targetSteps, { length, shorter, lines }) {
  if (length === shorter) {
    copyLines(source, start, steps, target, targetSteps, { length, lines });
    return;
  }
  const { firsts, weights, precision } = shrinkWeights(length, shorter);
  const half = 1 << (precision - 1);
  for (let line = 0; line < lines; line += 1) {
    for (let i = 0; i < shorter; i += 1) {
      const at = start + line * steps[1] + firsts[i] * steps[0];
      const to = line * targetSteps[1] + i * targetSteps[0];
      for (let channel = 0; channel < 3; channel += 1) {
        let sum = half;
        for (let j = 0; j < weights[i].length; j += 1) sum += weights[i][j] * source[at + j * steps[0] + channel];
        target[to + channel] = sum >> precision;
      }
    }
  }
}

function copyLines(source, start, steps, target, targetSteps, { length, lines }) {
  for (let line = 0; line < lines; line += 1) {
    for (let i = 0; i < length; i += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        target[line * targetSteps[1] + i * targetSteps[0] + channel] = source[start + line * steps[1] + i * steps[0] + channel];
      }
    }
  }
}

// Return, for each pixel of a shorter line, the first pixel that it averages and the weights as integers.
function shrinkWeights(length, shorter) {
  const scale = length / shorter;
  const support = Math.max(scale, 1);
  const firsts = [];
  const shares = [];
  for (let i = 0; i < shorter; i += 1) {
    const centre = scale * (i + 0.5);
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const count = Math.min(Math.trunc(centre + support + 0.5), length) - first;
    const row = Array.from({ length: count }, (_, j) => {
      const distance = Math.abs((j + first - centre + 0.5) / support);
      return distance < 1 ? 1 - distance : 0;
    });
    const total = row.reduce((sum, share) => sum + share, 0);
    firsts.push(first);
    shares.push(row.map((share) => share / total));
  }
  const largest = Math.max(...shares.map((row) => Math.max(...row)));
  let precision = 0;
  while (precision < 22 && Math.trunc(0.5 + largest * 2 ** (precision + 1)) < 2 ** 15) precision += 1;
  return { firsts, weights: shares.map((row) => row.map((share) => Math.trunc(0.5 + share * 2 ** precision))), precision };
}
