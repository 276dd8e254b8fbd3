// The panel of pictures: the selection, or else all that pass the filters, by a score; and its export.

import { shown, valueOf } from "./collection.js";
import { arrowKeys, el } from "./dom.js";
import { csv, pathList, save } from "./export.js";

const PAGE = 60;

export function createList(collection, state, pictures, { onPick, say }) {
  const { columns } = collection;
  const root = el("div", { class: "list" });
  const numbers = columns.map((column, i) => [column, i]).filter(([column]) => column.kind === "number");
  let sort = initialSort();
  let shownCount = PAGE;
  let isDue = true;

  function initialSort() {
    const agreement = numbers.find(([column]) => column.name === "agreement");
    return agreement ? `up ${agreement[1]}` : "";
  }

  function sorted(places) {
    if (!sort) return places;
    const [way, column] = sort.split(" ");
    const { values } = columns[Number(column)];
    const sign = way === "up" ? 1 : -1;
    const key = (i) => (Number.isNaN(values[i]) ? Infinity : sign * values[i]); // those without a number come last
    return places.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : a - b));
  }

  function sortSelect() {
    const select = el(
      "select",
      {
        id: "sort-by",
        onchange: () => {
          sort = select.value;
          shownCount = PAGE;
          rebuild();
          root.querySelector("#sort-by").focus();
        },
      },
      el("option", { value: "" }, "file name"),
      ...numbers.flatMap(([column, i]) => [
        el("option", { value: `up ${i}` }, `${shown(column.name)}, lowest first`),
        el("option", { value: `down ${i}` }, `${shown(column.name)}, highest first`),
      ]),
    );
    select.value = sort;
    return el("label", { class: "row" }, "Sort by", select);
  }

  function saveCsv() {
    const places = sorted(state.listed());
    save("clzoo-selection.csv", csv(collection, places), "text/csv");
    say(`Saved ${places.length} rows.`);
  }

  function saveList() {
    const { text, left } = pathList(collection, sorted(state.listed()));
    save("clzoo-selection.txt", text, "text/plain");
    const why = "they lie inside of a shard or in remote storage, or their name has a line break; the CSV has them";
    say(left ? `${left} images are not in the list: ${why}.` : "Saved the list.");
  }

  function words(place) {
    if (sort) return valueOf(columns[Number(sort.split(" ")[1])], place);
    const named = columns.find((column) => column.kind === "category");
    return named ? valueOf(named, place) : "";
  }

  function rebuild() {
    isDue = false;
    const places = sorted(state.listed());
    const what = state.selectedCount ? "selected" : state.isFiltered() ? "that pass" : "in all";
    const grid = arrowKeys(
      el(
        "div",
        { class: "grid" },
        ...places
          .slice(0, shownCount)
          .map((place) => pictures.tileButton(place, [el("span", { class: "score" }, words(place))], () => onPick(place))),
      ),
    );
    root.replaceChildren(
      el("p", { class: "heading" }, `${places.length.toLocaleString("en")} ${what}`),
      el(
        "div",
        { class: "actions" },
        el("button", { type: "button", id: "save-csv", onclick: saveCsv, disabled: !places.length }, "Save as CSV"),
        el(
          "button",
          {
            type: "button",
            id: "save-list",
            title: "A list of paths, for clzoo embed",
            onclick: saveList,
            disabled: !places.length,
          },
          "Save paths",
        ),
        state.selectedCount
          ? el("button", { type: "button", id: "clear-selection", onclick: () => state.select([]) }, "Clear selection")
          : null,
      ),
      sortSelect(),
      grid,
      places.length > shownCount
        ? el(
            "button",
            {
              type: "button",
              class: "more",
              onclick: () => {
                shownCount += PAGE;
                rebuild();
              },
            },
            `Show more (${(places.length - shownCount).toLocaleString("en")})`,
          )
        : "",
    );
  }

  // Nothing is drawn while the panel is hidden.
  function due() {
    isDue = true;
    shownCount = PAGE;
    if (root.offsetParent) rebuild();
  }
  state.listen("filter selection", due);
  return {
    root,
    show: () => {
      if (isDue) rebuild();
    },
  };
}
