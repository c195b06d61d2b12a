// Builds DOM elements. Strings from nodes and users are inserted as text, never as markup.

const $ = (id) => document.getElementById(id);

// Creates an element with attributes; `share` is a fraction that the style sheet draws.
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

// Adds a tooltip to an SVG shape; it is a child element, not an attribute.
function titled(element, text) {
  element.append(svg("title", {}, text));
  return element;
}

// Replaces the content of an element, unless the user has selected text in it.
function fill(element, ...children) {
  const selected = document.getSelection();
  if (selected && !selected.isCollapsed && element.contains(selected.anchorNode)) return;
  element.replaceChildren(...children.flat().filter((child) => child !== null));
}

// Does what fill does, but keeps elements whose data-key is unchanged, so that an open tooltip
// stays.
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

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function emptyNote(text) {
  return h("p", { class: "none" }, text);
}
