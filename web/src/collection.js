// The reader of what clzoo/explorer/payload.py writes: arrays of numbers come as base64 of little-endian bytes.

export function bytes(text) {
  const raw = atob(text);
  const found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found;
}

const floats = (text) => new Float32Array(bytes(text).buffer);
const doubles = (text) => new Float64Array(bytes(text).buffer);
const integers = (text) => new Int32Array(bytes(text).buffer);

export function decode(raw) {
  const count = raw.paths.length;
  return {
    ...raw,
    count,
    unlisted: new Set(raw.unlisted),
    maps: raw.maps.map(({ name, x, y }) => ({ name, x: floats(x), y: floats(y) })),
    columns: raw.columns.map((column) => (column.kind === "category" ? category(column) : number(column))),
    flags: raw.flags.map(({ name, meaning, rows }) => {
      const places = integers(rows);
      const has = new Uint8Array(count);
      for (const place of places) has[place] = 1;
      return { name, meaning, has, count: places.length };
    }),
    graphs: raw.graphs?.map(({ k, rows, similarity }) => ({ k, rows: integers(rows), similarity: floats(similarity) })),
    sheets: raw.sheets && {
      ...raw.sheets,
      place: integers(raw.sheets.place),
      shapes: bytes(raw.sheets.shapes),
      missing: new Map(Object.entries(raw.sheets.missing).map(([place, reason]) => [Number(place), reason])),
    },
  };
}

function category({ name, kind, values, codes }) {
  const found = integers(codes);
  const counts = new Int32Array(values.length + 1); // of no value: the last
  for (const code of found) counts[code < 0 ? values.length : code]++;
  return { name, kind, values, codes: found, counts };
}

function number({ name, kind, meaning, type, values }) {
  const found = type === "<f8" ? doubles(values) : floats(values);
  let [low, high] = [Infinity, -Infinity];
  for (const value of found) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low > high
    ? { name, kind, meaning, values: found, low: 0, high: 0 }
    : { name, kind, meaning, values: found, low, high };
}

// A name as one line of visible characters: what steers a line or the direction of writing is spelt out.
export function shown(text) {
  return text.replace(
    // eslint-disable-next-line no-control-regex
    /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]/gu,
    (one) => `\\u${one.codePointAt(0).toString(16).padStart(4, "0")}`,
  );
}

// As it is searched for: in small letters, and with accents as one letter, which a Mac keeps apart in file names.
export const folded = (text) => text.normalize("NFC").toLowerCase();

// The file's name, behind its folder's where it holds no letter and so tells nothing: cat/0017.png.
export function shortName(path) {
  const parts = path.split("/");
  const name = parts.at(-1);
  const stem = name.includes(".") ? name.slice(0, name.lastIndexOf(".")) : name;
  return shown(/\p{L}/u.test(stem) || parts.length < 2 ? name : parts.slice(-2).join("/"));
}

export function formatNumber(value) {
  if (Number.isNaN(value)) return "none";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(3);
}

export function valueOf(column, place) {
  if (column.kind === "number") return formatNumber(column.values[place]);
  const code = column.codes[place];
  return code < 0 ? "none" : shown(column.values[code]);
}
