// The map: points and pictures on one canvas; what the pointer, a lasso and the chosen picture add on another above it.

import KDBush from "kdbush";
import { createCamera } from "./camera.js";
import { css, mixed, page, pointColors, whenThemeChanges } from "./colors.js";
import { el } from "./dom.js";
import { MARGIN, disc, drawPoints, shuffled, square } from "./points.js";
import { KEPT } from "./source.js";

const REACH = 14; // pixels around the pointer in which a point is met
const MANY = 50_000; // points from which they are drawn as squares while the map moves
const MOST_PLACED = KEPT - 100; // pictures on the map; the others are for the panel
const REST = 140; // ms without a movement, after which the map stands still

export function createMap(collection, source, state, { onHover, onPick }) {
  const { count } = collection;
  const below = el("canvas", { class: "points" });
  const above = el("canvas", {
    class: "marks",
    tabIndex: 0,
    role: "application",
    "aria-label": `Map of ${count} images. Arrow keys move it, plus and minus zoom, Enter takes the picture in the middle.`,
  });
  const root = el("div", { class: "canvases" }, below, above);
  const camera = createCamera();
  const all = shuffled(count);
  const map = { root, camera, frames: 0, isLasso: false, showsPictures: true, focusable: above };

  let pixels, image, ratio, sizes;
  let colors = new Uint32Array(count);
  let order = all;
  let drawn = { x: new Float32Array(0), y: new Float32Array(0), colors: new Uint32Array(0) }; // in the order of drawing
  let background = 0xffffffff;
  let placed = []; // pictures on the map: places
  let index = null; // of the points, for the pointer
  let isMoving = false;
  let restTimer = 0;
  let asked = 0;
  let hovered = null;
  let lasso = null;
  let targets = null; // a camera that is moved to, step by step
  let near = []; // neighbors of the current picture, that lines lead to

  const places = () => collection.maps[state.map];

  // Colors and order --------------------------------------------------------------------------------------------------

  function recolor() {
    const [paper, faint] = page();
    background = paper;
    const base = pointColors(collection, state.colorBy);
    const hidden = mixed(paper, faint, 0.45);
    const hasSelection = state.selectedCount > 0;
    for (let i = 0; i < count; i++) {
      colors[i] = !state.passes[i] ? hidden : hasSelection && !state.selected[i] ? mixed(paper, base[i], 0.3) : base[i];
    }
    // What does not pass lies below, what is selected above.
    const rank = (i) => (state.passes[i] ? (hasSelection && state.selected[i] ? 2 : 1) : 0);
    order = new Int32Array(count);
    let at = 0;
    for (const wanted of [0, 1, 2]) for (const i of all) if (rank(i) === wanted) order[at++] = i;
    arrange();
  }

  // Numbers that are read one after the other are read several times as fast as those here and there.
  function arrange() {
    const { x, y } = places();
    drawn = { x: Float32Array.from(order, (i) => x[i]), y: Float32Array.from(order, (i) => y[i]) };
    drawn.colors = Uint32Array.from(order, (i) => colors[i]);
    settle();
  }

  // Drawing -----------------------------------------------------------------------------------------------------------

  function resize() {
    const { width, height } = root.getBoundingClientRect();
    const first = !ratio;
    ratio = Math.min(devicePixelRatio || 1, 2);
    camera.resize(width, height);
    sizes = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
    for (const canvas of [below, above]) [canvas.width, canvas.height] = sizes;
    image = new ImageData(sizes[0] + 2 * MARGIN, sizes[1] + 2 * MARGIN);
    pixels = new Uint32Array(image.data.buffer);
    const before = camera.whole;
    const [x, y, scale] = [camera.x, camera.y, camera.scale];
    showAll();
    camera.whole = camera.scale;
    if (!first) Object.assign(camera, { x, y, scale: (scale * camera.whole) / before });
    settle();
  }

  function showAll() {
    const { x, y } = places();
    let [left, right, bottom, top] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < count; i++) {
      left = Math.min(left, x[i]);
      right = Math.max(right, x[i]);
      bottom = Math.min(bottom, y[i]);
      top = Math.max(top, y[i]);
    }
    if (count > 1 && right + top > left + bottom) camera.show(left, bottom, right, top, 44);
    else camera.show(-1, -1, 1, 1);
  }

  const zoomed = () => camera.scale / camera.whole;

  function radius() {
    const fitting = Math.min(5, Math.max(1.1, 300 / Math.sqrt(Math.max(count, 1))));
    return Math.min(6, fitting * zoomed() ** 0.3) * ratio;
  }

  // Larger where there are few: half of the map for all of them together.
  function pictureSide() {
    const least = camera.width < 500 ? 34 : 46;
    const fair = Math.sqrt((0.5 * camera.width * camera.height) / Math.max(count, 1));
    return Math.min(76, Math.max(least, fair)) * Math.min(2.2, Math.max(1, zoomed() ** 0.18));
  }

  function draw() {
    asked = 0;
    if (targets) step();
    map.frames++;
    pixels.fill(background);
    const [width, height] = sizes;
    const scale = camera.scale * ratio;
    const view = { scale, left: width / 2 - camera.x * scale, top: height / 2 + camera.y * scale };
    const isCoarse = isMoving && count > MANY;
    const stride = width + 2 * MARGIN;
    const shape = isCoarse ? square(Math.max(1, Math.round(1.7 * radius())), stride) : disc(radius(), stride);
    drawPoints(pixels, width, height, shape, drawn, view);
    const context = below.getContext("2d");
    context.putImageData(image, -MARGIN, -MARGIN);
    drawPictures(context);
    drawMarks();
    if (targets) redraw();
  }

  function drawPictures(context) {
    if (!placed.length) return;
    const side = pictureSide() * ratio;
    const { x, y } = places();
    context.imageSmoothingQuality = "high";
    for (let n = placed.length - 1; n >= 0; n--) {
      const i = placed[n];
      const tile = source.tile(i);
      if (!tile) continue;
      const [px, py] = camera.toScreen(x[i], y[i]);
      const fit = side / Math.max(tile.width, tile.height);
      const [w, h] = [tile.width * fit, tile.height * fit];
      const [left, top] = [Math.round(px * ratio - w / 2), Math.round(py * ratio - h / 2)];
      const line = 1.5 * ratio;
      context.globalAlpha = state.selectedCount && !state.selected[i] ? 0.35 : 1;
      context.fillStyle = css(colors[i]);
      context.beginPath();
      context.roundRect(left - line, top - line, w + 2 * line, h + 2 * line, 4 * ratio);
      context.fill();
      context.drawImage(tile.image, tile.x, tile.y, tile.width, tile.height, left, top, w, h);
    }
    context.globalAlpha = 1;
  }

  function redraw() {
    asked ||= requestAnimationFrame(draw);
  }

  function settle() {
    clearTimeout(restTimer);
    isMoving = false;
    placed = placePictures();
    redraw();
  }

  function moved() {
    isMoving = true;
    clearTimeout(restTimer);
    restTimer = setTimeout(settle, REST);
    redraw();
  }

  // Where pictures stand on the map: none covers another, and none is shown where they would cover most of the points.
  function placePictures() {
    if (!map.showsPictures || !count) return [];
    const side = pictureSide();
    const { x, y } = places();
    const [left, bottom] = camera.toMap(-side, camera.height + side);
    const [right, top] = camera.toMap(camera.width + side, -side);
    const room = (2.2 * camera.width * camera.height) / (side * side);
    const inView = [];
    for (let n = count - 1; n >= 0; n--) {
      const i = order[n]; // the selected first
      if (!state.passes[i] || x[i] < left || x[i] > right || y[i] < bottom || y[i] > top) continue;
      inView.push(i);
      if (inView.length > room) return [];
    }
    if (state.current !== null && state.passes[state.current]) inView.unshift(state.current);
    const cells = new Map();
    const found = [];
    for (const i of inView) {
      const [px, py] = camera.toScreen(x[i], y[i]);
      const [column, row] = [Math.floor(px / side), Math.floor(py / side)];
      let isFree = true;
      for (let a = -1; a <= 1 && isFree; a++) {
        for (let b = -1; b <= 1 && isFree; b++) {
          const other = cells.get((column + a) * 4096 + row + b);
          if (other && Math.abs(other[0] - px) < side && Math.abs(other[1] - py) < side) isFree = false;
        }
      }
      if (!isFree) continue;
      if (found.length === MOST_PLACED) break;
      cells.set(column * 4096 + row, [px, py]);
      found.push(i);
    }
    return found;
  }

  // Marks -------------------------------------------------------------------------------------------------------------

  function ring(context, i, color, size = 7, line = 2) {
    const { x, y } = places();
    const [px, py] = camera.toScreen(x[i], y[i]);
    const half = placed.includes(i) ? pictureSide() / 2 + 3 : size;
    context.strokeStyle = color;
    context.lineWidth = line;
    context.beginPath();
    if (half > size) context.roundRect(px - half, py - half, 2 * half, 2 * half, 7);
    else context.arc(px, py, half, 0, 2 * Math.PI);
    context.stroke();
  }

  function drawMarks() {
    const context = above.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const [ink, accent] = ["--ink", "--accent"].map((name) => style.getPropertyValue(name).trim());
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, camera.width, camera.height);
    const { x, y } = places();
    if (state.current !== null) {
      const from = camera.toScreen(x[state.current], y[state.current]);
      context.strokeStyle = accent;
      context.lineWidth = 1;
      context.globalAlpha = 0.55;
      context.beginPath();
      for (const i of near) {
        context.moveTo(...from);
        context.lineTo(...camera.toScreen(x[i], y[i]));
      }
      context.stroke();
      context.globalAlpha = 1;
      ring(context, state.current, accent, 9, 3);
    }
    for (const i of near) ring(context, i, accent, 5, 1.5);
    if (hovered !== null) ring(context, hovered, ink);
    if (lasso?.length > 1) {
      context.strokeStyle = accent;
      context.lineWidth = 1.5;
      context.setLineDash([5, 4]);
      context.beginPath();
      context.moveTo(...lasso[0]);
      for (const point of lasso.slice(1)) context.lineTo(...point);
      context.closePath();
      context.stroke();
      context.setLineDash([]);
      context.globalAlpha = 0.08;
      context.fillStyle = accent;
      context.fill();
      context.globalAlpha = 1;
    }
  }

  // The pointer -------------------------------------------------------------------------------------------------------

  function met(px, py, reach = REACH) {
    const { x, y } = places();
    const half = pictureSide() / 2;
    for (const i of placed) {
      const [a, b] = camera.toScreen(x[i], y[i]);
      if (Math.abs(a - px) <= half && Math.abs(b - py) <= half) return i;
    }
    if (!index) {
      index = new KDBush(count, 64, Float32Array);
      for (let i = 0; i < count; i++) index.add(x[i], y[i]);
      index.finish();
    }
    const [mx, my] = camera.toMap(px, py);
    let [best, least] = [null, Infinity];
    for (const i of index.within(mx, my, reach / camera.scale)) {
      const distance = (x[i] - mx) ** 2 + (y[i] - my) ** 2;
      if (state.passes[i] && distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  function hover(i, px, py) {
    if (i === hovered && i === null) return;
    hovered = i;
    above.style.cursor = map.isLasso ? "crosshair" : i === null ? "grab" : "pointer";
    if (!asked) drawMarks();
    onHover(i, px, py);
  }

  const pointers = new Map();
  let travelled = 0;

  const at = (event) => {
    const { left, top } = above.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };

  above.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    above.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    if (pointers.size === 1) travelled = 0;
    targets = null;
    if (pointers.size === 1 && (map.isLasso || event.shiftKey)) lasso = [at(event)];
    else lasso = null;
  });

  above.addEventListener("pointermove", (event) => {
    const now = at(event);
    const before = pointers.get(event.pointerId);
    if (!before) return hover(map.isLasso ? null : met(...now), ...now);
    pointers.set(event.pointerId, now);
    travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (lasso) {
      lasso.push(now);
      drawMarks();
    } else if (pointers.size === 2) {
      const [other] = [...pointers].find(([id]) => id !== event.pointerId).slice(1);
      const spread = (one) => Math.max(1, Math.hypot(one[0] - other[0], one[1] - other[1]));
      camera.zoom(spread(now) / spread(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      camera.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
      moved();
    } else if (travelled > 4) {
      hover(null);
      camera.pan(now[0] - before[0], now[1] - before[1]);
      moved();
    }
  });

  function lifted(event) {
    if (!pointers.delete(event.pointerId)) return;
    if (lasso) {
      if (lasso.length > 2 && travelled > 8) state.select(inside(lasso), { add: event.ctrlKey || event.metaKey });
      lasso = null;
      drawMarks();
    } else if (travelled <= 4 && event.type === "pointerup") {
      const touched = event.pointerType === "touch";
      const i = met(...at(event), touched ? 24 : REACH);
      if (i !== null) onPick(i);
    }
  }
  above.addEventListener("pointerup", lifted);
  above.addEventListener("pointercancel", lifted);
  above.addEventListener("pointerleave", () => hover(null));

  above.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      targets = null;
      const amount = event.deltaMode ? event.deltaY * 16 : event.deltaY;
      camera.zoom(Math.exp(-amount * (event.ctrlKey ? 0.01 : 0.0022)), ...at(event));
      moved();
    },
    { passive: false },
  );

  above.addEventListener("dblclick", (event) => {
    camera.zoom(2, ...at(event));
    moved();
  });

  // The images inside a polygon of screen points, of those that pass.
  function inside(polygon) {
    const { x, y } = places();
    const corners = polygon.map((point) => camera.toMap(...point));
    const found = [];
    for (let i = 0; i < count; i++) {
      if (!state.passes[i]) continue;
      let is = false;
      for (let a = 0, b = corners.length - 1; a < corners.length; b = a++) {
        const [ax, ay] = corners[a];
        const [bx, by] = corners[b];
        if (ay > y[i] !== by > y[i] && x[i] < ((bx - ax) * (y[i] - ay)) / (by - ay) + ax) is = !is;
      }
      if (is) found.push(i);
    }
    return found;
  }

  // Moves from outside ------------------------------------------------------------------------------------------------

  function step() {
    const share = 0.28;
    for (const key of ["x", "y"]) camera[key] += (targets[key] - camera[key]) * share;
    camera.scale *= (targets.scale / camera.scale) ** share;
    const isThere =
      Math.abs(Math.log(targets.scale / camera.scale)) < 0.004 &&
      Math.hypot(targets.x - camera.x, targets.y - camera.y) * camera.scale < 0.5;
    if (isThere) {
      Object.assign(camera, targets);
      targets = null;
      settle();
    } else {
      isMoving = true;
    }
  }

  function flyTo(x, y, scale) {
    targets = { x, y, scale };
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      Object.assign(camera, targets);
      targets = null;
      settle();
    } else {
      redraw();
    }
  }

  map.fit = () => {
    const before = { x: camera.x, y: camera.y, scale: camera.scale };
    showAll();
    const whole = { x: camera.x, y: camera.y, scale: camera.scale };
    Object.assign(camera, before);
    flyTo(whole.x, whole.y, whole.scale);
  };
  map.zoom = (factor) => flyTo(camera.x, camera.y, camera.allowed(camera.scale * factor));
  map.move = (dx, dy) => {
    camera.pan(dx, dy);
    moved();
  };
  map.reveal = (i) => {
    const { x, y } = places();
    const [px, py] = camera.toScreen(x[i], y[i]);
    const isSeen = px > 30 && py > 30 && px < camera.width - 30 && py < camera.height - 30;
    if (!isSeen) flyTo(x[i], y[i], camera.scale);
  };
  map.inMiddle = () => met(camera.width / 2, camera.height / 2, Math.max(camera.width, camera.height));
  map.inView = () =>
    inside([
      [0, 0],
      [camera.width, 0],
      [camera.width, camera.height],
      [0, camera.height],
    ]);
  map.screenOf = (i) => camera.toScreen(places().x[i], places().y[i]);
  map.placed = () => placed;
  map.setNear = (found) => {
    near = found;
    settle();
  };
  map.setLasso = (is) => {
    map.isLasso = is;
    above.style.cursor = is ? "crosshair" : "grab";
  };
  map.setPictures = (shows) => {
    map.showsPictures = shows;
    settle();
  };
  map.cancelLasso = () => {
    lasso = null;
    drawMarks();
  };
  map.loaded = redraw;
  map.hover = hover;

  state.listen("filter color selection", recolor);
  state.listen("map", () => {
    index = null;
    arrange();
  });
  whenThemeChanges(recolor);
  new ResizeObserver(resize).observe(root);
  map.start = () => {
    resize();
    recolor();
  };
  return map;
}
