// Shows the nodes of the mesh and the links between them.

// With more nodes than this on one side, they are laid out in rows, not beside the coordinator.
const MOST_BESIDE = 7;
const paths = new Map();
let lastBytes = new Map();
let lastFlows = { nodes: [], flows: new Map(), busy: false };

function showTopology(status, gateway) {
  const of = (role) => status.nodes.filter((node) => node.role === role);
  // A target is shown with the stages that have the other layers of its model.
  const targets = [...of("target"), ...of("stage")];
  const drafts = of("draft");
  const box = $("topology");
  box.classList.toggle("dense", Math.max(targets.length, drafts.length) > MOST_BESIDE);
  fillKeyed($("targets"), of("target").length ? targets.map(nodeCard) : [...targets.map(nodeCard), h("li", { class: "none" }, "No target node: requests cannot be answered.")]);
  fillKeyed($("drafts"), drafts.length ? drafts.map(nodeCard) : [h("li", { class: "none" }, "No draft node: targets decode plainly or guess by prompt lookup.")]);
  setText($("num-targets"), String(of("target").length || ""));
  setText($("num-drafts"), String(drafts.length || ""));
  const waiting = status.waiting.num_streams + status.waiting.num_tokenizing;
  fill($("coordinator-node"), hubCard("coordinator", `protocol ${status.protocol}`, [
    plural(status.num_streams - status.waiting.num_streams, "stream"),
    `${count(waiting)} waiting`,
  ]));
  fill($("gateway-node"), hubCard("gateway", `version ${gateway.version}`, [
    plural(gateway.num_requests, "request"),
  ]));
  const flows = new Map();
  for (const node of status.nodes) {
    const total = node.bytes_in + node.bytes_out;
    flows.set(keyOf(node), Math.max(0, total - (lastBytes.get(keyOf(node)) ?? total)));
  }
  lastBytes = new Map(status.nodes.map((node) => [keyOf(node), node.bytes_in + node.bytes_out]));
  lastFlows = { nodes: status.nodes, flows, busy: gateway.num_requests > 0 };
  drawLinks();
}

function keyOf(node) {
  return `${node.role} ${node.name}`;
}

function hubCard(name, text, facts) {
  return [
    h("div", { class: "name" }, h("span", {}, name)),
    h("div", { class: "model" }, text),
    h("div", { class: "facts" }, facts.map((fact) => h("span", {}, fact))),
  ];
}

function nodeCard(node) {
  const isIn = node.state !== "left";
  const isStage = node.role === "stage";
  const state = node.state === "ok" ? "ok" : `${node.state} ${node.silent_s.toFixed(0)} s`;
  const link = [node.rtt_s === null ? "" : duration(node.rtt_s), rate(node.rate_bps)];
  const held = node.max_streams ? `${node.num_streams}/${node.max_streams}` : String(node.num_streams);
  const about = [
    `${node.role} ${node.name}: ${node.model} (${node.engine})`,
    `model hash ${node.model_hash}`,
    node.role === "target" ? `numerics class ${node.numerics_class}` : "",
    isStage ? "" : (node.exact ? "exact" : "not exact") + (node.takes_guesses ? "" : ", without guesses"),
    node.emulated ? "emulated: its timings imitate another device" : "",
    node.rate_bps === null ? "" : `link ${rate(node.rate_bps)}, ${node.rate_is}`,
    node.medium ? `shares the medium ${node.medium}` : "",
    `${size(node.bytes_in)} from it, ${size(node.bytes_out)} to it`,
    node.num_cells ? `${count(node.num_cells)} cells` + (node.role === "target" ? `, ${count(node.used_cells)} used` : "") : "",
    node.draft_why && `draft in its process: ${node.draft || "none"}, ${node.draft_why}`,
    node.reason,
  ];
  return h("li", { class: `node ${node.role} ${node.state}`, title: about.filter(Boolean).join("\n"), "data-key": keyOf(node) },
    h("div", { class: "name" }, h("span", {}, node.name), h("em", {}, state)),
    h("div", { class: "model" }, (isStage ? `stage: ${node.model || "no part yet"}` : node.model) + (node.draft ? ` + ${node.draft}` : "") + (node.emulated ? " · emulated" : "")),
    !isIn ? h("div", { class: "model" }, node.reason) : null,
    isIn && !isStage ? h("div", { class: "busy" }, h("i", { share: Math.min(1, node.busy) }), h("b", {}, percent(node.busy))) : null,
    isIn ? h("div", { class: "facts" },
      h("span", {}, link.filter(Boolean).join(" · ") || "link unknown"),
      isStage ? null : h("span", {}, `${held} streams`)) : null);
}

// Draws a curve from each node to the coordinator; there are none when the nodes are in rows.
function drawLinks() {
  const area = $("links").getBoundingClientRect();
  const wanted = new Map();
  if (area.width) {
    const middle = $("coordinator-node").getBoundingClientRect();
    const at = (x, y) => [x - area.left, y - area.top];
    for (const card of document.querySelectorAll("#topology [data-key]")) {
      const box = card.getBoundingClientRect();
      const isLeft = box.right <= middle.left;
      const [x1, y1] = at(isLeft ? box.right : box.left, box.top + box.height / 2);
      const [x2, y2] = at(isLeft ? middle.left : middle.right, middle.top + middle.height / 2);
      const bend = (x1 + x2) / 2;
      const node = lastFlows.nodes.find((entry) => keyOf(entry) === card.dataset.key);
      wanted.set(card.dataset.key, {
        d: `M${x1} ${y1}C${bend} ${y1} ${bend} ${y2} ${x2} ${y2}`,
        kind: node ? `${node.role} ${node.state}` : "",
        flow: lastFlows.flows.get(card.dataset.key) || 0,
      });
    }
    const top = $("gateway-node").getBoundingClientRect();
    const [x1, y1] = at(top.left + top.width / 2, top.bottom);
    const [, y2] = at(0, middle.top);
    wanted.set("", { d: `M${x1} ${y1}L${x1} ${y2}`, kind: "", flow: lastFlows.busy ? 2000 : 0 });
  }
  for (const [name, pair] of paths) {
    if (wanted.has(name)) continue;
    pair.forEach((path) => path.remove());
    paths.delete(name);
  }
  for (const [name, { d, kind, flow }] of wanted) {
    if (!paths.has(name)) {
      paths.set(name, [svg("path", {}), svg("path", { class: "flow" })]);
      $("links").append(...paths.get(name));
    }
    const [line, moving] = paths.get(name);
    // The elements are reused from one poll to the next, so that their animation continues.
    line.setAttribute("d", d);
    line.setAttribute("class", kind);
    line.setAttribute("stroke-width", String(Math.min(6, 1.6 + Math.log10(1 + flow / 100) * 1.2)));
    moving.setAttribute("d", d);
    moving.style.display = flow > 0 ? "" : "none";
  }
}

window.addEventListener("resize", drawLinks);
