// What every key does, and the dialog that says so.

import { el } from "./dom.js";

const KEYS = [
  ["arrows", "move the map"],
  ["+  \u2212  0", "closer, farther, all images"],
  ["Enter", "take the picture in the middle of the map"],
  ["n  p", "next and previous picture of those that pass"],
  ["1 \u2026 9", "go to that neighbor of the picture"],
  ["Backspace", "back to the picture before"],
  ["s", "select or deselect the picture"],
  ["v  a", "select what is in view, or all that pass"],
  ["l", "lasso on and off; or hold shift and draw"],
  ["t", "pictures on the map on and off"],
  ["f  g  h", "filters, pictures, picture"],
  ["/", "find a file name"],
  ["Esc", "leave a field, the lasso, the picture; then show all"],
];

export function helpDialog(collection) {
  const dialog = el(
    "dialog",
    { id: "keys", onclick: (event) => event.target === dialog && dialog.close() },
    el("h2", {}, "Keys"),
    el("dl", {}, ...KEYS.flatMap(([keys, what]) => [el("dt", {}, keys), el("dd", {}, what)])),
    el(
      "p",
      { class: "note" },
      "Drag to move, turn the wheel or pinch to zoom, click a picture to see its neighbors. ",
      collection.server ? "Drop or paste a picture to search with it." : "",
    ),
    el("button", { type: "button", onclick: () => dialog.close() }, "Close"),
  );
  return dialog;
}

export function listenToKeys({ map, state, search, lasso, shows, help, open, onPick, resetAll }) {
  const step = 60;
  const keys = {
    ArrowLeft: () => map.move(step, 0),
    ArrowRight: () => map.move(-step, 0),
    ArrowUp: () => map.move(0, step),
    ArrowDown: () => map.move(0, -step),
    "+": () => map.zoom(1.6),
    "=": () => map.zoom(1.6),
    "-": () => map.zoom(1 / 1.6),
    0: () => map.fit(),
    n: () => walk(1),
    p: () => walk(-1),
    s: () => state.current !== null && state.toggleSelected(state.current),
    v: () => state.select(map.inView()),
    a: () => state.select(state.passes.reduce((found, one, i) => (one && found.push(i), found), [])),
    l: () => lasso.click(),
    t: () => shows.click(),
    f: () => open("filters"),
    g: () => open("list"),
    h: () => open("picture"),
    "/": () => search.focus(),
    "?": () => help.showModal(),
    Backspace: () => state.back(),
    Escape: escape,
  };

  function walk(way) {
    const { passes } = state;
    if (!state.passing) return;
    let at = state.current ?? (way > 0 ? -1 : passes.length);
    do at = (at + way + passes.length) % passes.length;
    while (!passes[at]);
    onPick(at);
  }

  function escape() {
    if (map.isLasso) lasso.click();
    else if (state.current !== null || state.query) {
      state.before.length = 0;
      state.back();
    } else resetAll();
    map.cancelLasso();
  }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const isField = event.target.matches?.("input[type=search], select, textarea, input[type=range]");
    if (isField) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const isButton = event.target.matches?.("button, summary, input");
    if (event.key === "Enter" && !isButton) {
      const place = map.inMiddle();
      if (place !== null) onPick(place);
    } else if (/^[1-9]$/.test(event.key)) {
      document.querySelectorAll(".neighbors .grid:first-of-type button")[Number(event.key) - 1]?.click();
    } else if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });
}
