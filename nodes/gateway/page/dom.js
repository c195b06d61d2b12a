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

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function none(text) {
  return h("p", { class: "none" }, text);
}
