// The panel of filters: what points are colored by, flags, and a part for each column.

import { folded, formatNumber, shown } from "./collection.js";
import { classes, css, ends, page, scale, whenThemeChanges } from "./colors.js";
import { el } from "./dom.js";

const MOST = 30; // values of a column that are listed at once
const BINS = 40;

export function createFilters(collection, state) {
  const { columns, flags, count } = collection;
  const root = el("div", { class: "filters" });
  const open = new Set([state.colorBy]);

  function colorSelect() {
    const select = el(
      "select",
      {
        id: "color-by",
        onchange: () => {
          const by = select.value === "flags" ? "flags" : select.value === "" ? null : Number(select.value);
          open.add(by);
          state.color(by);
        },
      },
      ...columns.map((column, i) => el("option", { value: String(i) }, shown(column.name))),
      flags.length ? el("option", { value: "flags" }, "flags") : null,
      el("option", { value: "" }, "nothing"),
    );
    select.value = state.colorBy === null ? "" : String(state.colorBy);
    return el("label", { class: "row" }, "Color by", select);
  }

  function flagPart() {
    if (!flags.length) return null;
    const [, , , bad] = page();
    const colors = flags.length === 1 ? [bad] : classes(flags.length);
    return el(
      "fieldset",
      { class: "part" },
      el("legend", {}, "Flags"),
      ...flags.map((flag, i) =>
        el(
          "label",
          { class: "value", title: shown(flag.meaning) },
          el("input", { type: "checkbox", checked: state.flagged.has(i), onchange: () => state.toggleFlag(i) }),
          state.colorBy === "flags" ? swatch(colors[i]) : null,
          el("span", { class: "words" }, flag.name),
          el("span", { class: "count" }, flag.count.toLocaleString("en")),
        ),
      ),
    );
  }

  function swatch(color) {
    const node = el("i", { class: "swatch" });
    node.style.background = css(color);
    return node;
  }

  function columnPart(column, i) {
    const details = el(
      "details",
      {
        class: "part",
        open: open.has(i),
        ontoggle: () => {
          if (details.open) open.add(i);
          else open.delete(i);
          if (details.open && !details.dataset.filled) fill();
        },
      },
      el(
        "summary",
        {},
        el("span", { class: "words" }, shown(column.name)),
        column.kind === "category" ? el("span", { class: "count" }, `${column.values.length.toLocaleString("en")}`) : null,
      ),
    );
    function fill() {
      details.dataset.filled = "yes";
      details.append(column.kind === "category" ? valuesOf(column, i) : rangeOf(column, i));
    }
    if (open.has(i)) fill();
    return details;
  }

  function valuesOf(column, i) {
    const colors = state.colorBy === i ? classes(column.values.length) : null;
    const codes = column.values.map((_, code) => code).sort((a, b) => column.counts[b] - column.counts[a] || a - b);
    if (column.counts[column.values.length]) codes.push(-1);
    const list = el("div", { class: "values" });
    const search = el("input", {
      type: "search",
      placeholder: `find among ${column.values.length.toLocaleString("en")}`,
      "aria-label": `Find a value of ${shown(column.name)}`,
      oninput: fill,
    });
    function fill() {
      const wanted = folded(search.value);
      const chosen = state.values.get(i);
      const found = codes.filter((code) => !wanted || (code >= 0 && folded(column.values[code]).includes(wanted)));
      list.replaceChildren(
        ...found.slice(0, MOST).map((code) =>
          el(
            "label",
            { class: "value" },
            el("input", {
              type: "checkbox",
              checked: Boolean(chosen?.has(code)),
              onchange: () => state.toggleValue(i, code),
            }),
            colors ? swatch(code < 0 ? page()[1] : colors[code]) : null,
            el("span", { class: "words" }, code < 0 ? "none" : shown(column.values[code])),
            el("span", { class: "count" }, column.counts[code < 0 ? column.values.length : code].toLocaleString("en")),
          ),
        ),
        found.length > MOST ? el("p", { class: "note" }, `and ${(found.length - MOST).toLocaleString("en")} more`) : "",
      );
    }
    fill();
    return el("div", {}, codes.length > MOST ? search : null, list);
  }

  function rangeOf(column, i) {
    const { low, high } = column;
    const [from, to] = state.ranges.get(i) ?? [low, high];
    const words = el("p", { class: "note" });
    const ratio = (value) => (high > low ? (value - low) / (high - low) : 0);
    const slider = (name, value) =>
      el("input", {
        type: "range",
        min: "0",
        max: "1000",
        value: String(Math.round(1000 * ratio(value))),
        "aria-label": `${name} of ${shown(column.name)}`,
        oninput: changed,
      });
    const [least, most] = [slider("Least", from), slider("Most", to)];
    const value = (input) =>
      input.value === "0" ? low : input.value === "1000" ? high : low + ((high - low) * Number(input.value)) / 1000;
    function say(a, b) {
      words.textContent = `${formatNumber(a)} to ${formatNumber(b)}`;
    }
    function changed() {
      const [a, b] = [Math.min(value(least), value(most)), Math.max(value(least), value(most))];
      say(a, b);
      state.setRange(i, a, b);
    }
    say(from, to);
    return el(
      "div",
      { class: "range" },
      column.meaning ? el("p", { class: "note" }, shown(column.meaning)) : null,
      histogram(column, state.colorBy === i),
      least,
      most,
      words,
    );
  }

  function histogram(column, isColored) {
    const bins = new Int32Array(BINS);
    const width = column.high - column.low || 1;
    for (const value of column.values) {
      if (!Number.isNaN(value)) bins[Math.min(BINS - 1, Math.floor(((value - column.low) / width) * BINS))]++;
    }
    const canvas = el("canvas", { class: "histogram", width: BINS * 8, height: 64, role: "img" });
    canvas.setAttribute("aria-label", `Histogram of ${shown(column.name)}`);
    const context = canvas.getContext("2d");
    const most = Math.max(...bins, 1);
    const steps = scale();
    const [first, last] = ends(column);
    const [, faint] = page();
    bins.forEach((bin, i) => {
      const middle = column.low + ((i + 0.5) / BINS) * width;
      const share = Math.min(Math.max((middle - first) / (last - first || 1), 0), 1);
      context.fillStyle = css(isColored ? steps[Math.round(share * (steps.length - 1))] : faint);
      const height = bin ? Math.max(2, 62 * Math.sqrt(bin / most)) : 0;
      context.fillRect(i * 8, 64 - height, 7, height);
    });
    return canvas;
  }

  function rebuild() {
    const at = root.parentElement?.scrollTop ?? 0;
    const focused = document.activeElement?.id;
    root.replaceChildren(
      ...[
        colorSelect(),
        flagPart(),
        ...columns.map(columnPart),
        collection.notes.length
          ? el(
              "details",
              { class: "part notes", open: true },
              el("summary", {}, "Notes"),
              ...collection.notes.map((note) => el("p", { class: "note" }, shown(note))),
            )
          : null,
        count ? null : el("p", { class: "note" }, "There are no images here. Embed some: clzoo embed IMAGES"),
      ].filter(Boolean),
    );
    if (root.parentElement) root.parentElement.scrollTop = at;
    if (focused === "color-by") root.querySelector("#color-by").focus();
  }

  rebuild();
  state.listen("color reset", rebuild);
  whenThemeChanges(rebuild);
  return root;
}
