// What is filtered, colored, selected and looked at. Parts of the page change it here and are told of changes of it.

import { folded } from "./collection.js";

export function createState(collection) {
  const { count, columns, flags } = collection;
  const listeners = [];
  let names = null; // of the files, folded when they are first searched
  const state = {
    name: "", // part of the file name
    values: new Map(), // column -> Set of codes that pass; -1 is no value
    ranges: new Map(), // column -> [low, high]
    flagged: new Set(), // flags, of which one suffices
    colorBy: columns.length ? firstColor(collection) : null, // a column, "flags", or null
    map: 0,
    passes: new Uint8Array(count).fill(1),
    passing: count,
    selected: new Uint8Array(count),
    selectedCount: 0,
    current: null, // the picture that is looked at
    query: null, // {url, name, found} of a picture that was searched with
    before: [], // what was looked at before
  };

  state.listen = (what, listener) => listeners.push([what.split(" "), listener]);
  state.tell = (what) => {
    for (const [kinds, listener] of listeners) if (kinds.includes(what)) listener(what);
  };

  state.filter = () => {
    const name = folded(state.name);
    names ??= name ? collection.paths.map(folded) : null;
    state.passing = 0;
    for (let i = 0; i < count; i++) {
      const passes =
        (!name || names[i].includes(name)) && passesFlags(i) && passesColumns(i);
      state.passes[i] = passes ? 1 : 0;
      if (passes) state.passing++;
    }
    state.tell("filter");
  };

  function passesFlags(i) {
    if (!state.flagged.size) return true;
    for (const flag of state.flagged) if (flags[flag].has[i]) return true;
    return false;
  }

  function passesColumns(i) {
    for (const [column, codes] of state.values) if (!codes.has(columns[column].codes[i])) return false;
    for (const [column, [low, high]] of state.ranges) {
      const value = columns[column].values[i];
      if (!(value >= low && value <= high)) return false;
    }
    return true;
  }

  state.isFiltered = () => Boolean(state.name || state.values.size || state.ranges.size || state.flagged.size);

  state.reset = () => {
    state.name = "";
    state.values.clear();
    state.ranges.clear();
    state.flagged.clear();
    state.filter();
    state.tell("reset");
  };

  state.toggleValue = (column, code) => {
    const codes = state.values.get(column) ?? new Set();
    if (codes.has(code)) codes.delete(code);
    else codes.add(code);
    if (codes.size) state.values.set(column, codes);
    else state.values.delete(column);
    state.filter();
  };

  state.setRange = (column, low, high) => {
    const { low: least, high: most } = columns[column];
    if (low <= least && high >= most) state.ranges.delete(column);
    else state.ranges.set(column, [low, high]);
    state.filter();
  };

  state.toggleFlag = (flag) => {
    if (!state.flagged.delete(flag)) state.flagged.add(flag);
    state.filter();
  };

  state.color = (by) => {
    state.colorBy = by;
    state.tell("color");
  };

  state.select = (places, { add = false } = {}) => {
    if (!add) state.selected.fill(0);
    for (const place of places) state.selected[place] = 1;
    recount();
    if (places.length) state.tell("chosen");
  };

  state.toggleSelected = (place) => {
    state.selected[place] ^= 1;
    recount();
  };

  function recount() {
    state.selectedCount = state.selected.reduce((sum, one) => sum + one, 0);
    state.tell("selection");
  }

  // The selection where there is one, else what passes the filters.
  state.listed = () => {
    const chosen = state.selectedCount ? state.selected : state.passes;
    const places = [];
    for (let i = 0; i < count; i++) if (chosen[i]) places.push(i);
    return places;
  };

  state.look = (place) => {
    if (place === state.current && !state.query) return;
    if (state.current !== null || state.query) state.before.push({ place: state.current, query: state.query });
    state.before.splice(0, state.before.length - 100);
    [state.current, state.query] = [place, null];
    state.tell("current");
  };

  state.lookWith = (query) => {
    if (state.current !== null || state.query) state.before.push({ place: state.current, query: state.query });
    [state.current, state.query] = [null, query];
    state.tell("current");
  };

  state.back = () => {
    const last = state.before.pop();
    [state.current, state.query] = last ? [last.place, last.query] : [null, null];
    state.tell("current");
  };

  return state;
}

function firstColor({ columns }) {
  const agreement = columns.findIndex((column) => column.name === "agreement" && column.kind === "number");
  if (agreement >= 0) return agreement;
  const named = columns.findIndex((column) => column.kind === "category");
  return named < 0 ? null : named;
}
