// The tools' pictures, as lines in a box of 20.

const LINES = {
  closer: "M10 4v12M4 10h12",
  farther: "M4 10h12",
  whole: "M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4",
  lasso: "M10 3.5c4 0 7 2.2 7 5s-3 5-7 5-7-2.2-7-5 3-5 7-5zM6.5 13c0 1.8-.8 3-2.5 3.5",
  picture: "M3 4h14v12H3zM3 13l4-4 4 4 2.5-2.500L17 14M13 7.500h.01",
  keys: "M7.5 7.500C7.5 6 8.6 5 10 5s2.5 1 2.5 2.300c0 1.9-2.5 2.2-2.5 4.200M10 15h.01",
};

const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", LINES[name]);
  svg.append(path);
  return svg;
}
