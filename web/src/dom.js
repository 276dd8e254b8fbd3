// Elements from words: text is always text, so no name of others becomes an element.

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Buttons in a grid: the arrow keys go from one to the next.
export function arrowKeys(grid) {
  grid.addEventListener("keydown", (event) => {
    const buttons = [...grid.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    if (at < 0 || !event.key.startsWith("Arrow")) return;
    const top = buttons[0].offsetTop;
    const across = buttons.findIndex((button) => button.offsetTop > top);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
    event.preventDefault();
    event.stopPropagation();
    buttons[at + (across < 0 && Math.abs(step) !== 1 ? 0 : step)]?.focus();
  });
  return grid;
}
