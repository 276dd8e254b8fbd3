// Colors of points, as numbers of the canvas's bytes (0xAABBGGRR); the browser converts OKLCH, in which steps look even.

const dark = matchMedia("(prefers-color-scheme: dark)");

export const isDark = () => dark.matches;
export const whenThemeChanges = (listener) => dark.addEventListener("change", listener);

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const ACROSS = 4096; // pixels of a row; a canvas of more than some 32,000 is empty, and says nothing

function numbers(colors) {
  const canvas = new OffscreenCanvas(ACROSS, Math.max(1, Math.ceil(colors.length / ACROSS)));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  colors.forEach((color, i) => {
    context.fillStyle = color;
    context.fillRect(i % ACROSS, Math.floor(i / ACROSS), 1, 1);
  });
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  return new Uint32Array(data.buffer).subarray(0, colors.length);
}

export const css = (color) => `rgb(${color & 255} ${(color >> 8) & 255} ${(color >> 16) & 255})`;

export function mixed(a, b, share) {
  const one = Math.round(256 * share);
  const rb = ((a & 0xff00ff) * (256 - one) + (b & 0xff00ff) * one) / 256;
  const g = ((a & 0xff00) * (256 - one) + (b & 0xff00) * one) / 256;
  return (0xff000000 | (rb & 0xff00ff) | (g & 0xff00)) >>> 0;
}

export const page = () => numbers([style("--map"), style("--faint"), style("--accent"), style("--bad")]);

// Few classes stand evenly around the circle, of two lightnesses in turn; many by the golden angle.
export function classes(count) {
  const dark = isDark();
  return numbers(
    Array.from({ length: count }, (_, i) => {
      const hue = count <= 12 ? 25 + (360 * i) / Math.max(count, 1) : 25 + 137.508 * i;
      const light = (dark ? 0.76 : 0.62) + (i % 2 ? 0.07 : -0.04);
      return `oklch(${light} ${i % 3 === 2 ? 0.11 : 0.17} ${hue % 360})`;
    }),
  );
}

const STEPS = 64;

export function scale() {
  return numbers(
    Array.from({ length: STEPS }, (_, i) => {
      const share = i / (STEPS - 1);
      return `oklch(${0.42 + 0.44 * share} ${0.13 + 0.05 * Math.sin(Math.PI * share)} ${290 - 190 * share})`;
    }),
  );
}

// The 1st and 99th percentile of a column: the ends of its colors, so that a few far values do not take them all.
export function ends(column) {
  if (!column.ends) {
    const step = Math.max(1, Math.floor(column.values.length / 20000));
    const some = column.values.filter((value, i) => i % step === 0 && !Number.isNaN(value)).sort();
    const at = (share) => some[Math.round(share * (some.length - 1))] ?? 0;
    column.ends = [at(0.01), at(0.99)];
  }
  return column.ends;
}

// The color of every image by a column or the flags.
export function pointColors(collection, by) {
  const [, faint, accent, bad] = page();
  const found = new Uint32Array(collection.count);
  if (by === null) return found.fill(accent);
  if (by === "flags") {
    const names = classes(collection.flags.length);
    found.fill(faint);
    collection.flags.forEach(({ has }, flag) => {
      for (let i = 0; i < found.length; i++) if (has[i]) found[i] = collection.flags.length === 1 ? bad : names[flag];
    });
    return found;
  }
  const column = collection.columns[by];
  if (column.kind === "category") {
    const names = classes(column.values.length);
    for (let i = 0; i < found.length; i++) found[i] = column.codes[i] < 0 ? faint : names[column.codes[i]];
    return found;
  }
  const steps = scale();
  const [low, high] = ends(column);
  for (let i = 0; i < found.length; i++) {
    const share = (column.values[i] - low) / (high - low || 1);
    found[i] = Number.isNaN(share) ? faint : steps[Math.round(Math.min(Math.max(share, 0), 1) * (STEPS - 1))];
  }
  return found;
}
