// The page: the head, the map with its tools, and the panel with its three tabs.

import { shortName, shown, valueOf } from "./collection.js";
import { createDetails } from "./details.js";
import { el } from "./dom.js";
import { createFilters } from "./filters.js";
import { icon } from "./icons.js";
import { helpDialog, listenToKeys } from "./keyboard.js";
import { createList } from "./list.js";
import { createMap } from "./map.js";
import { createPictures } from "./pictures.js";

export function build(body, collection, source, state) {
  body.classList.toggle("pair", collection.encoders.length > 1);
  document.title = `${shown(collection.title)} - clzoo explore`;
  const pictures = createPictures(collection, source);
  const status = el("p", { class: "status", role: "status", "aria-live": "polite" });
  let statusTimer = 0;

  function say(text) {
    status.textContent = text;
    clearTimeout(statusTimer);
    statusTimer = setTimeout(() => (status.textContent = ""), 9000);
  }

  // The map and what stands on it --------------------------------------------------------------------------------------

  const tooltip = el("div", { class: "tooltip", hidden: true });
  const map = createMap(collection, source, state, { onHover, onPick });

  function onHover(place, px, py) {
    tooltip.hidden = place === null;
    if (place === null) return;
    if (tooltip.dataset.place !== String(place)) {
      tooltip.dataset.place = place;
      const named = collection.columns.find((column) => column.kind === "category");
      const by = typeof state.colorBy === "number" ? collection.columns[state.colorBy] : null;
      tooltip.replaceChildren(
        el("span", { class: "frame" }, pictures.picture(place)),
        el("b", {}, shortName(collection.paths[place])),
        ...[named, by !== named ? by : null]
          .filter(Boolean)
          .map((column) => el("span", {}, `${shown(column.name)}: ${valueOf(column, place)}`)),
        ...collection.flags.filter(({ has }) => has[place]).map(({ name }) => el("span", { class: "flag" }, name)),
      );
    }
    const { width, height } = map.camera;
    tooltip.style.left = `${px > width / 2 ? px - tooltip.offsetWidth - 18 : px + 18}px`;
    tooltip.style.top = `${Math.max(8, Math.min(py - 40, height - tooltip.offsetHeight - 8))}px`;
  }

  function onPick(place) {
    onHover(null);
    state.look(place);
    open("picture"); // also where it was the current one already
    map.reveal(place);
  }

  const tool = (id, title, picture, onclick) =>
    el("button", { type: "button", id, title, "aria-label": title, onclick }, icon(picture));
  const lasso = tool("lasso", "Lasso: draw around pictures to select them (l, or hold shift)", "lasso", () => {
    map.setLasso(!map.isLasso);
    lasso.setAttribute("aria-pressed", map.isLasso);
  });
  const shows = tool("pictures", "Pictures on the map (t)", "picture", () => {
    map.setPictures(!map.showsPictures);
    shows.setAttribute("aria-pressed", map.showsPictures);
  });
  lasso.setAttribute("aria-pressed", "false");
  shows.setAttribute("aria-pressed", "true");
  const help = helpDialog(collection);
  const tools = el(
    "div",
    { class: "tools", role: "toolbar", "aria-label": "Map" },
    tool("zoom-in", "Closer (+)", "closer", () => map.zoom(1.6)),
    tool("zoom-out", "Farther (-)", "farther", () => map.zoom(1 / 1.6)),
    tool("fit", "All images (0)", "whole", () => map.fit()),
    lasso,
    shows,
    tool("help", "Keys (?)", "keys", () => help.showModal()),
  );

  const search = el("input", {
    type: "search",
    id: "search",
    placeholder: "Find a file name",
    "aria-label": "Find a file name (/)",
    spellcheck: false,
    oninput: () => {
      state.name = search.value;
      state.filter();
      if (search.value) open("list");
    },
    onkeydown: (event) => {
      if (event.key !== "Enter") return;
      const place = state.passes.indexOf(1);
      if (place >= 0) onPick(place);
    },
  });
  const counter = el("p", { class: "counter" });
  const mapSelect = el(
    "select",
    {
      id: "map-of",
      "aria-label": "Map of",
      onchange: () => {
        state.map = Number(mapSelect.value);
        state.tell("map");
      },
    },
    ...collection.maps.map(({ name }, i) => el("option", { value: String(i) }, `map of ${shown(name)}`)),
  );
  const file = el("input", {
    type: "file",
    accept: "image/*",
    hidden: true,
    onchange: () => {
      if (file.files[0]) details.searchWith(file.files[0]);
      file.value = ""; // the same one may be chosen again
    },
  });

  const head = el(
    "header",
    {},
    el(
      "div",
      { class: "title" },
      el("h1", {}, shown(collection.title)),
      el("p", {}, collection.facts.map(shown).join(" \u00b7 ")),
    ),
    search,
    source.search
      ? el(
          "button",
          { type: "button", id: "with-picture", onclick: () => file.click(), title: "Or drop or paste one anywhere" },
          "Search with a picture",
          file,
        )
      : null,
    collection.maps.length > 1 ? mapSelect : null,
  );

  // The panel -----------------------------------------------------------------------------------------------------------

  const list = createList(collection, state, pictures, { onPick, say });
  const details = createDetails(collection, source, state, pictures, {
    onPick,
    say,
    onNeighbors: (places) => map.setNear(places),
  });
  const panels = {
    filters: { title: "Filters", node: createFilters(collection, state), show: () => {} },
    list: { title: "Pictures", node: list.root, show: list.show },
    picture: { title: "Picture", node: details.root, show: () => {} },
  };
  const tabs = el("div", { class: "tabs", role: "tablist", "aria-label": "Panel" });
  const content = el("div", { class: "content" });
  for (const [id, panel] of Object.entries(panels)) {
    panel.tab = el(
      "button",
      { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `panel-${id}`, onclick: () => open(id) },
      panel.title,
    );
    panel.node.id = `panel-${id}`;
    panel.node.setAttribute("role", "tabpanel");
    panel.node.setAttribute("aria-labelledby", `tab-${id}`);
    tabs.append(panel.tab);
    content.append(panel.node);
  }
  tabs.addEventListener("keydown", (event) => {
    const ids = Object.keys(panels);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.stopPropagation();
    const at = ids.findIndex((id) => panels[id].tab.getAttribute("aria-selected") === "true");
    const id = ids[(at + step + ids.length) % ids.length];
    open(id);
    panels[id].tab.focus();
  });

  function open(id) {
    for (const [other, { tab, node }] of Object.entries(panels)) {
      tab.setAttribute("aria-selected", other === id);
      tab.tabIndex = other === id ? 0 : -1;
      node.hidden = other !== id;
    }
    content.scrollTop = 0;
    panels[id].show();
  }

  const reset = el("button", { type: "button", id: "reset", onclick: resetAll }, "Show all");
  function resetAll() {
    search.value = "";
    state.reset();
    state.select([]);
  }

  function count() {
    const { passing, selectedCount } = state;
    const total = collection.count.toLocaleString("en");
    counter.textContent =
      (passing === collection.count ? `${total} images` : `${passing.toLocaleString("en")} of ${total} images`) +
      (selectedCount ? `, ${selectedCount.toLocaleString("en")} selected` : "");
    reset.hidden = !state.isFiltered() && !selectedCount;
  }

  body.append(
    head,
    el("main", {}, map.root, tools, tooltip, el("div", { class: "below" }, counter, reset), status),
    el("aside", {}, tabs, content),
    help,
  );
  map.root.after(tools);

  state.listen("filter selection", count);
  state.listen("chosen", () => open("list")); // not at single ones: they are chosen while one looks through pictures
  state.listen("current", () => (state.current !== null || state.query) && open("picture"));
  source.loaded = () => {
    pictures.loaded();
    map.loaded();
  };
  dropAndPaste(body, details.searchWith);
  listenToKeys({ map, state, search, lasso, shows, help, open, onPick, resetAll });
  open(collection.maps.length > 1 ? "list" : "filters");
  count();
  map.start();
  return map;
}

function dropAndPaste(body, searchWith) {
  const picture = (items) => [...(items?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? items?.files?.[0];
  body.addEventListener("dragover", (event) => {
    event.preventDefault();
    body.classList.add("dropping");
  });
  body.addEventListener("dragleave", (event) => !event.relatedTarget && body.classList.remove("dropping"));
  body.addEventListener("drop", (event) => {
    event.preventDefault();
    body.classList.remove("dropping");
    const file = picture(event.dataTransfer);
    if (file) searchWith(file);
  });
  addEventListener("paste", (event) => {
    const file = picture(event.clipboardData);
    if (file) searchWith(file);
  });
}
