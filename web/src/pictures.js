// Pictures as elements: canvases that are filled when their tile is there.

import { shortName, shown } from "./collection.js";
import { el } from "./dom.js";

export function createPictures(collection, source) {
  const waiting = new Set();

  function draw(canvas) {
    const { place, large, onMissing } = canvas.picture;
    const reason = source.missing(place);
    const tile = reason ? null : large ? source.large(place) : source.tile(place);
    if (!tile && !reason) return false;
    const [width, height] = tile ? [tile.width, tile.height] : [96, 96];
    Object.assign(canvas, { width, height });
    if (tile) {
      canvas.getContext("2d").drawImage(tile.image, tile.x, tile.y, width, height, 0, 0, width, height);
    } else {
      canvas.classList.add("missing");
      canvas.setAttribute("aria-label", `no picture: ${reason}`);
      canvas.title = reason;
      onMissing?.(reason);
    }
    canvas.dataset.drawn = tile ? "yes" : "missing";
    return Boolean(reason) || !large || tile.width > 128 || !collection.server; // the large one may still come
  }

  function picture(place, { large = false, onMissing = null } = {}) {
    const canvas = el("canvas", { width: 8, height: 8, role: "img" });
    canvas.setAttribute("aria-label", shown(collection.paths[place]));
    canvas.picture = { place, large, onMissing };
    if (!draw(canvas)) waiting.add(canvas);
    return canvas;
  }

  function loaded() {
    for (const canvas of waiting) if (!canvas.isConnected || draw(canvas)) waiting.delete(canvas);
  }

  // A button with a picture and words below it.
  function tileButton(place, words, onclick, kind = "") {
    return el(
      "button",
      { class: `tile ${kind}`, type: "button", title: shown(collection.paths[place]), onclick, "data-place": place },
      el("span", { class: "frame" }, picture(place)),
      ...words,
      el("span", { class: "name" }, shortName(collection.paths[place])),
    );
  }

  return { picture, tileButton, loaded };
}
