// Bundles src/ into clzoo/explorer/web: one script and one style, which pages carry inside and allow by their hashes.
// The first line of each says which sources it is built from; tests/explorer/test_built.py compares.

import { build } from "esbuild";
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";

const hash = createHash("sha256");
for (const name of readdirSync("src").sort()) hash.update(`${name}\0`).update(readFileSync(`src/${name}`));
hash.update(readFileSync("package.json"));
const banner = `/* clzoo explorer, built by make web from sources of sha256 ${hash.digest("hex")} */`;

for (const [entry, kind] of [["main.js", "js"], ["style.css", "css"]]) {
  await build({
    entryPoints: [`src/${entry}`],
    outfile: `../clzoo/explorer/web/explorer.${kind}`,
    bundle: true,
    minify: true,
    format: kind === "js" ? "iife" : undefined,
    target: "es2022",
    charset: "ascii",
    legalComments: "inline",
    banner: { [kind]: banner },
  });
}
