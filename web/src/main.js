// The page: a collection comes out of the file or from the server, and the parts are put together.

import { decode } from "./collection.js";
import { build } from "./layout.js";
import { fromFile, fromServer } from "./source.js";
import { createState } from "./state.js";

async function start() {
  const inside = document.getElementById("collection");
  let raw;
  if (inside) {
    raw = JSON.parse(inside.textContent);
  } else {
    const answer = await fetch("collection");
    if (!answer.ok) throw new Error(`the server answered ${answer.status}: open the address that clzoo explore printed`);
    raw = await answer.json();
  }
  const collection = decode(raw);
  const source = inside ? fromFile(collection) : fromServer(collection);
  const state = createState(collection);
  const map = build(document.body, collection, source, state);
  window.clzoo = { collection, source, state, map }; // for a console, and for the tests
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  document.body.append(`This page cannot be shown: ${error.message}`);
  document.documentElement.dataset.ready = "failed";
});
