// Elements made of texts: what nodes and people say is text, never markup.

const $ = (id) => document.getElementById(id);

// An element with attributes; `share` is a fraction that the style sheet draws.
function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "share") element.style.setProperty("--share", String(value));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// A title that comes with an SVG shape is a child of it.
function titled(element, text) {
  element.append(svg("title", {}, text));
  return element;
}

// New content, but not under somebody's selection.
function fill(element, ...children) {
  const selected = document.getSelection();
  if (selected && !selected.isCollapsed && element.contains(selected.anchorNode)) return;
  element.replaceChildren(...children.flat().filter((child) => child !== null));
}

// As fill, but elements that have the same data-key as before stay, and so what is said of them on
// pointing at them.
function fillKeyed(list, items) {
  const before = new Map([...list.children].map((item) => [item.dataset.key, item]));
  const after = items.map((item) => {
    const known = before.get(item.dataset.key);
    if (!known || !item.dataset.key) return item;
    known.className = item.className;
    if (known.title !== item.title) known.title = item.title;
    fill(known, ...item.children);
    return known;
  });
  const isSame = after.length === list.children.length && after.every((item, at) => item === list.children[at]);
  if (!isSame) fill(list, ...after);
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function none(text) {
  return h("p", { class: "none" }, text);
}
