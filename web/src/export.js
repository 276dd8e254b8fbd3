// The listed images as a file: a table, or a list of paths that `clzoo embed` takes.

// Python ends lines at each of these; a list of paths cannot hold them.
// eslint-disable-next-line no-control-regex
const LINE_END = /[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/;

export function fullPath(collection, place) {
  const root = collection.root.replace(/[/\\]$/, "");
  const path = collection.paths[place];
  return path.startsWith("/") || collection.unlisted.has(place) ? path : `${root}/${path}`;
}

const cell = (value) => (/[",\r\n]|^\s|\s$/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

export function csv(collection, places) {
  const { columns, flags } = collection;
  const names = ["path"];
  for (const { name } of [...columns, ...flags]) {
    let own = name;
    while (names.includes(own)) own = `${own}_2`;
    names.push(own);
  }
  const lines = places.map((place) => [
    fullPath(collection, place),
    ...columns.map((column) => {
      if (column.kind === "category") return column.codes[place] < 0 ? "" : column.values[column.codes[place]];
      return Number.isNaN(column.values[place]) ? "" : String(column.values[place]);
    }),
    ...flags.map(({ has }) => String(has[place])),
  ]);
  return [names, ...lines].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

// {text, left}: the list, and how many images it cannot name (inside a shard, or with a line break in the name).
export function pathList(collection, places) {
  const paths = places
    .filter((place) => !collection.unlisted.has(place))
    .map((place) => fullPath(collection, place))
    .filter((path) => !LINE_END.test(path) && path.trim() === path);
  return { text: paths.map((path) => `${path}\n`).join(""), left: places.length - paths.length };
}

export function save(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
