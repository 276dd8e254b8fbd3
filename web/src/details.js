// The panel of one picture: itself, what is known of it, and its neighbors under each encoder.

import { shortName, shown, valueOf } from "./collection.js";
import { arrowKeys, el } from "./dom.js";

export function createDetails(collection, source, state, pictures, { onPick, onNeighbors, say }) {
  const { columns, flags, encoders } = collection;
  const root = el("div", { class: "details" });
  const labels = columns.find((column) => column.kind === "category");
  let turn = 0; // answers of the server that come too late are left

  async function rebuild() {
    const own = ++turn;
    const { current, query } = state;
    if (current === null && !query) {
      root.replaceChildren(
        el("p", { class: "note" }, "Click a picture on the map to see it here, with its neighbors."),
        collection.server
          ? el("p", { class: "note" }, "Drop or paste a picture anywhere to search with it.")
          : el("p", { class: "note" }, "To search with a picture of your own, start clzoo explore without --html."),
      );
      onNeighbors([]);
      return;
    }
    const neighbors = el("div", { class: "neighbors" });
    root.replaceChildren(query ? queryPart(query) : picturePart(current), neighbors);
    try {
      const found = query ? query.found : await source.neighbors(current);
      if (own !== turn) return;
      neighbors.append(...found.map((each, i) => neighborsPart(each, i, found)));
      onNeighbors(found[Math.min(state.map, found.length - 1)].places);
    } catch (error) {
      if (own === turn) neighbors.append(el("p", { class: "note bad" }, error.message));
    }
  }

  function head() {
    return el(
      "div",
      { class: "actions" },
      el("button", { type: "button", id: "back", onclick: state.back }, state.before.length ? "\u2190 Back" : "Close"),
      state.current === null
        ? null
        : el(
            "button",
            { type: "button", id: "toggle-selected", onclick: () => state.toggleSelected(state.current) },
            state.selected[state.current] ? "Deselect" : "Select",
          ),
    );
  }

  function picturePart(place) {
    const facts = columns.map((column) => [shown(column.name), valueOf(column, place)]);
    const flagged = flags.filter(({ has }) => has[place]);
    const gone = el("p", { class: "note bad", hidden: true });
    const onMissing = (reason) => {
      gone.textContent = `No picture: ${shown(reason)}`;
      gone.hidden = false;
    };
    return el(
      "section",
      {},
      head(),
      el("div", { class: "large" }, pictures.picture(place, { large: true, onMissing })),
      gone,
      el("h2", {}, shortName(collection.paths[place])),
      el("p", { class: "path" }, shown(collection.paths[place])),
      flagged.length
        ? el("p", { class: "flags" }, ...flagged.map(({ name, meaning }) => el("span", { title: shown(meaning) }, name)))
        : null,
      el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    );
  }

  function queryPart(query) {
    return el(
      "section",
      {},
      head(),
      el("div", { class: "large" }, el("img", { src: query.url, alt: "the picture that was searched with" })),
      el("h2", {}, shown(query.name)),
    );
  }

  function neighborsPart(found, i, all) {
    const shared = all.length > 1 ? new Set(all[1 - i].places) : null;
    const own = state.current !== null && labels ? labels.codes[state.current] : -1;
    return el(
      "section",
      { "data-encoder": encoders[i] },
      el("h3", {}, all.length > 1 ? shown(encoders[i]) : state.query ? "Most similar" : "Neighbors"),
      found.places.length ? null : el("p", { class: "note" }, "There are no others."),
      arrowKeys(
        el(
          "div",
          { class: "grid" },
          ...found.places.map((place, n) => {
            const code = labels ? labels.codes[place] : -1;
            const kind = own < 0 || code < 0 ? "" : own === code ? "same" : "other";
            const isOnlyHere = shared && !shared.has(place);
            return pictures.tileButton(
              place,
              [
                el(
                  "span",
                  { class: "score" },
                  found.similarity[n].toFixed(3),
                  isOnlyHere ? el("em", {}, "only here") : null,
                ),
                labels ? el("span", { class: "label" }, valueOf(labels, place)) : null,
              ],
              () => onPick(place),
              `${kind}${isOnlyHere ? " only" : ""}`,
            );
          }),
        ),
      ),
    );
  }

  async function searchWith(file) {
    if (!source.search) {
      say("This file has no encoder: start clzoo explore without --html to search with a picture.");
      return;
    }
    say("Searching ...");
    try {
      const found = await source.search(file);
      state.lookWith({ url: URL.createObjectURL(file), name: file.name || "pasted picture", found });
      say("Found the most similar pictures.");
    } catch (error) {
      say(error.message);
    }
  }

  state.listen("current map", rebuild);
  state.listen("selection", () => {
    const button = root.querySelector("#toggle-selected");
    if (button && state.current !== null) button.textContent = state.selected[state.current] ? "Deselect" : "Select";
  });
  rebuild();
  return { root, searchWith };
}
