// Points drawn into the bytes of an image: no GPU is needed, and every machine draws the same.

export const MARGIN = 16; // pixels around the picture, so that a point at the edge needs no test of its own

// The pixels of a disc: those that it covers (core), and those of its edge with the share that it covers, of 256.
export function disc(radius, stride) {
  const reach = Math.ceil(radius);
  const [core, edge, share] = [[], [], []];
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const covered = Math.min(Math.max(radius + 0.5 - Math.hypot(x, y), 0), 1);
      if (covered > 0.97) core.push(y * stride + x);
      else if (covered > 0.03) {
        edge.push(y * stride + x);
        share.push(Math.round(256 * covered));
      }
    }
  }
  return { core: Int32Array.from(core), edge: Int32Array.from(edge), share: Int32Array.from(share) };
}

// A square of whole pixels: what a million points are drawn with while the map moves.
export function square(side, stride) {
  const core = [];
  for (let y = 0; y < side; y++) for (let x = 0; x < side; x++) core.push(y * stride + x);
  return { core: Int32Array.from(core), edge: new Int32Array(0), share: new Int32Array(0) };
}

// Draws points, the last on top. `pixels` is (height + 2 MARGIN) rows of (width + 2 MARGIN).
export function drawPoints(pixels, width, height, shape, { x, y, colors }, { scale, left, top }) {
  const { core, edge, share } = shape;
  const stride = width + 2 * MARGIN;
  const [cores, edges] = [core.length, edge.length];
  for (let i = 0; i < x.length; i++) {
    const column = Math.round(x[i] * scale + left) + MARGIN;
    const row = Math.round(top - y[i] * scale) + MARGIN;
    if (column < 8 || row < 8 || column >= width + 2 * MARGIN - 8 || row >= height + 2 * MARGIN - 8) continue;
    const at = row * stride + column;
    const color = colors[i];
    for (let k = 0; k < cores; k++) pixels[at + core[k]] = color;
    for (let k = 0; k < edges; k++) {
      const below = pixels[at + edge[k]];
      const one = share[k];
      const rest = 256 - one;
      const rb = ((below & 0xff00ff) * rest + (color & 0xff00ff) * one) >>> 8;
      const g = ((below & 0xff00) * rest + (color & 0xff00) * one) >>> 8;
      pixels[at + edge[k]] = 0xff000000 | (rb & 0xff00ff) | (g & 0xff00);
    }
  }
}

// All places in an order that looks random and is always the same, so that no class lies on top of all others.
export function shuffled(count) {
  const order = new Int32Array(count);
  let step = Math.max(1, Math.floor(count * 0.6180339887));
  while (gcd(step, count) > 1) step++;
  for (let i = 0, at = 0; i < count; i++, at = (at + step) % count) order[i] = at;
  return order;
}

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}
