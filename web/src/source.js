// Where pictures and neighbors come from: out of the file, or from the server that sent the page.
//
// Both give: neighbors(place) -> a list for each encoder; tile(place) -> {image, x, y, width, height} or null while it is
// on its way; missing(place) -> why there is none; large(place) -> a tile of more pixels; search(file) or null.

import { bytes } from "./collection.js";

export const KEPT = 1500; // pictures that are kept; a map that shows more of them at a time would never come to rest

const SHEET_BYTES = 64 << 20; // decoded sheets that are kept
const AT_ONCE = 6; // pictures that are asked for at a time

export function fromFile(collection) {
  const { sheets, graphs } = collection;
  const kept = new Map(); // place -> its picture, cut out of its sheet; the latest used last
  const decoded = new Map(); // number -> ImageBitmap; the latest used last
  const awaited = new Map(); // number of a sheet that is being decoded -> places that were asked for
  const source = { loaded: () => {}, search: null };
  const perSheet = sheets.across * sheets.across;
  const most = Math.max(4, Math.floor(SHEET_BYTES / (4 * perSheet * sheets.side * sheets.side)));

  async function decode(number) {
    const text = document.getElementById(`sheet-${number}`).textContent;
    const sheet = await createImageBitmap(new Blob([bytes(text)], { type: "image/webp" }));
    keep(decoded, number, sheet, most);
    for (const place of awaited.get(number)) cut(sheet, place);
    awaited.delete(number);
    source.loaded();
  }

  // Into a canvas of its own: the sheet may go before the picture does.
  function cut(sheet, place) {
    const inside = sheets.place[place] % perSheet;
    const [width, height] = [sheets.shapes[2 * place], sheets.shapes[2 * place + 1]];
    const x = (inside % sheets.across) * sheets.side + ((sheets.side - width) >> 1);
    const y = Math.floor(inside / sheets.across) * sheets.side + ((sheets.side - height) >> 1);
    const image = new OffscreenCanvas(width, height);
    image.getContext("2d").drawImage(sheet, x, y, width, height, 0, 0, width, height);
    keep(kept, place, image, KEPT);
    return image;
  }

  source.missing = (place) => sheets.missing.get(place) ?? null;
  source.tile = (place) => {
    if (sheets.missing.has(place)) return null;
    const number = Math.floor(sheets.place[place] / perSheet);
    let image = used(kept, place);
    if (!image) {
      const sheet = used(decoded, number);
      if (sheet) image = cut(sheet, place);
      else if (awaited.has(number)) awaited.get(number).add(place);
      else {
        awaited.set(number, new Set([place]));
        decode(number);
      }
    }
    return image ? { image, x: 0, y: 0, width: image.width, height: image.height } : null;
  };
  source.large = source.tile;
  source.neighbors = async (place) =>
    graphs.map(({ k, rows, similarity }) => ({
      places: Array.from(rows.subarray(place * k, place * k + k)),
      similarity: Array.from(similarity.subarray(place * k, place * k + k)),
    }));
  return source;
}

// A map as a cache: the latest used last, the first go where there are more than `most`.
function used(map, key) {
  const value = map.get(key);
  if (value) {
    map.delete(key);
    map.set(key, value);
  }
  return value;
}

function keep(map, key, value, most) {
  map.set(key, value);
  for (const [oldest, old] of map) {
    if (map.size <= most) break;
    if (old && oldest !== key) {
      map.delete(oldest);
      old.close?.();
    }
  }
}

export function fromServer() {
  const source = { loaded: () => {} };
  const missing = new Map();
  const stores = { small: pictures("small", KEPT), large: pictures("large", 8) };

  function pictures(size, most) {
    const kept = new Map(); // place -> image, or null while it is on its way
    const waiting = [];
    let running = 0;

    function next() {
      while (running < AT_ONCE && waiting.length) {
        const place = waiting.pop(); // the latest first: that is what is looked at now
        running++;
        load(place).finally(() => {
          running--;
          next();
        });
      }
      for (const place of waiting.splice(0, Math.max(0, waiting.length - 400))) kept.delete(place); // scrolled past
    }

    async function load(place) {
      try {
        const answer = await fetch(`picture/${size}/${place}`);
        if (!answer.ok) throw new Error(await answer.text());
        keep(kept, place, await createImageBitmap(await answer.blob()), most);
      } catch (error) {
        missing.set(place, error.message);
      }
      source.loaded();
    }

    return (place) => {
      if (missing.has(place)) return null;
      const image = used(kept, place);
      if (image === undefined) {
        kept.set(place, null);
        waiting.push(place);
        next();
      }
      return image ? { image, x: 0, y: 0, width: image.width, height: image.height } : null;
    };
  }

  source.missing = (place) => missing.get(place) ?? null;
  source.tile = stores.small;
  source.large = (place) => stores.large(place) ?? stores.small(place);
  source.neighbors = async (place) => (await checked(fetch(`neighbors/${place}`))).json();
  source.search = async (file) => (await checked(fetch("search", { method: "POST", body: file }))).json();
  return source;
}

async function checked(asked) {
  let answer;
  try {
    answer = await asked;
  } catch {
    throw new Error("the server does not answer any more; start it again: clzoo explore");
  }
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}
