// Where pictures and neighbors come from: out of the file, or from the server that sent the page.
//
// Both give: neighbors(place) -> a list for each encoder; tile(place) -> {image, x, y, width, height} or null while it is
// on its way; missing(place) -> why there is none; large(place) -> a tile of more pixels; search(file) or null.

import { bytes } from "./collection.js";

const SHEET_BYTES = 128 << 20; // decoded sheets that are kept
const KEPT = 1500; // pictures of the server that are kept
const AT_ONCE = 6; // pictures that are asked for at a time

export function fromFile(collection) {
  const { sheets, graphs } = collection;
  const decoded = new Map(); // number -> ImageBitmap, or null while it is being decoded; the latest used last
  const source = { loaded: () => {}, search: null };
  const perSheet = sheets.across * sheets.across;
  const most = Math.max(4, Math.floor(SHEET_BYTES / (4 * perSheet * sheets.side * sheets.side)));

  function sheet(number) {
    if (decoded.has(number)) {
      const image = decoded.get(number);
      decoded.delete(number);
      decoded.set(number, image);
      return image;
    }
    decoded.set(number, null);
    const text = document.getElementById(`sheet-${number}`).textContent;
    createImageBitmap(new Blob([bytes(text)], { type: "image/webp" })).then((image) => {
      decoded.set(number, image);
      for (const [oldest, old] of decoded) {
        if (decoded.size <= most) break;
        if (old && oldest !== number) {
          decoded.delete(oldest);
          old.close();
        }
      }
      source.loaded();
    });
    return null;
  }

  source.missing = (place) => sheets.missing.get(place) ?? null;
  source.tile = (place) => {
    if (sheets.missing.has(place)) return null;
    const number = sheets.place[place];
    const image = sheet(Math.floor(number / perSheet));
    if (!image) return null;
    const inside = number % perSheet;
    const [width, height] = [sheets.shapes[2 * place], sheets.shapes[2 * place + 1]];
    const x = (inside % sheets.across) * sheets.side + ((sheets.side - width) >> 1);
    const y = Math.floor(inside / sheets.across) * sheets.side + ((sheets.side - height) >> 1);
    return { image, x, y, width, height };
  };
  source.large = source.tile;
  source.neighbors = async (place) =>
    graphs.map(({ k, rows, similarity }) => ({
      places: Array.from(rows.subarray(place * k, place * k + k)),
      similarity: Array.from(similarity.subarray(place * k, place * k + k)),
    }));
  return source;
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
        kept.set(place, await createImageBitmap(await answer.blob()));
        for (const [oldest, old] of kept) {
          if (kept.size <= most) break;
          if (old && oldest !== place) {
            kept.delete(oldest);
            old.close();
          }
        }
      } catch (error) {
        missing.set(place, error.message);
      }
      source.loaded();
    }

    return (place) => {
      if (missing.has(place)) return null;
      const image = kept.get(place);
      if (image === undefined) {
        kept.set(place, null);
        waiting.push(place);
        next();
      } else if (image) {
        kept.delete(place);
        kept.set(place, image);
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
