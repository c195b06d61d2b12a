// Shows the summary tiles, the streams, the plans with their observed results, and shared media.

// The outcomes of requests that are neither done nor ended by their client.
const FAILURES = ["bad_request", "not_found", "overloaded", "unavailable", "deadline", "internal"];

function showTiles(status, history) {
  const speed = sum(status.targets.map((target) => (target.observed ? target.observed.tokens_per_s : 0)));
  const made = sum(status.targets.map((target) => sum(target.counts.made)));
  const accepted = sum(status.targets.map((target) => sum(target.counts.accepted)));
  const waiting = status.waiting.num_streams + status.waiting.num_tokenizing;
  const requests = status.totals.requests;
  const failed = sum(FAILURES.map((name) => requests[name] || 0));
  const recent = history.slice(-60).map(([, , share]) => share).filter((share) => share !== null);
  const rate = recent.length ? sum(recent) / recent.length : made ? accepted / made : null;
  const [up, unit] = uptime(status.uptime_s);
  fill($("tiles"),
    tile("Speed", fixed(speed, 1), "tokens/s", "last ten seconds"),
    tile("Guesses accepted", percent(rate), "", recent.length ? "last minute" : "since the start"),
    tile("Streams", count(status.num_streams - status.waiting.num_streams), "", `${count(waiting)} waiting`),
    tile("Requests", count(requests.done || 0), "done", failed ? `${count(failed)} failed` : "none failed"),
    tile("Uptime", up, unit, `airdraft ${status.version}`));
}

function tile(name, value, unit, below) {
  return h("li", {}, h("span", {}, name), h("b", {}, value, unit ? h("small", {}, unit) : null), h("span", {}, below));
}

// columns: title, class of its cells ("number" for figures).
function table(element, columns, rows) {
  fill(element,
    h("thead", {}, h("tr", {}, columns.map(([title, kind]) => h("th", { class: kind, scope: "col" }, title)))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, at) => {
      const text = typeof cell === "string" ? cell : null;
      const [title, kind] = columns[at];
      return h("td", { class: kind, "data-label": title, title: kind.includes("name") ? text : null }, cell);
    })))));
}

const STREAM_COLUMNS = [
  ["Stream", "number"], ["Phase", "name"], ["Tokens", "number"], ["Tokens/s", "number"], ["Guesses", "number"],
  ["Accepted", "number"], ["Target", "name"], ["Draft", "name"], ["Reason for no guesses", "why"],
];

function showStreams(status) {
  const left = status.num_streams - status.streams.length;
  setText($("streams-count"), status.num_streams ? `${count(status.num_streams)}${left > 0 ? `, the first ${status.streams.length} shown` : ""}` : "");
  if (!status.streams.length) {
    fill($("streams-table"), h("caption", { class: "none" }, "No stream is under way."));
    return;
  }
  table($("streams-table"), STREAM_COLUMNS, status.streams.map((stream) => [
    String(stream.stream_id),
    stream.phase,
    h("span", { class: "progress" },
      h("span", { class: "meter", share: stream.max_tokens ? stream.num_tokens / stream.max_tokens : 0 }),
      `${count(stream.num_tokens)} / ${count(stream.max_tokens)}`),
    fixed(stream.tokens_per_s, 1),
    stream.phase === "decoding" ? String(stream.gamma) : MISSING,
    stream.num_draft_tokens ? percent(stream.num_accepted_tokens / stream.num_draft_tokens) : MISSING,
    stream.target || MISSING,
    stream.draft || MISSING,
    stream.reason || PLAIN[stream.plain] || stream.plain || MISSING,
  ]));
}

const PLAN_COLUMNS = [
  ["Target", "name"], ["Plan in force", "name"], ["Tokens/s", "number"],
  ["Open flow, predicted", "number"], ["Groups, predicted", "number"], ["Observed", "number"],
  ["Plan error", "number"], ["Pass error", "number"],
];

function showPlans(status) {
  const planned = status.targets.filter((target) => target.plan && target.observed);
  if (!planned.length) {
    fill($("plan-table"), h("caption", { class: "none" }, "No target has a plan."));
    fill($("plan-notes"));
    return;
  }
  const off = (target, stage) => {
    const errors = target.observed.errors[stage];
    return errors && errors.num_seen ? percent(errors.median) : MISSING;
  };
  table($("plan-table"), PLAN_COLUMNS, planned.map((target) => [
    target.name,
    planName(target.plan),
    fixed(target.observed.tokens_per_s, 1),
    duration(target.plan.open_price_s),
    duration(target.plan.grouped_price_s),
    duration(target.observed.price_s),
    off(target, "plan"), off(target, "pass"),
  ]));
  fill($("plan-notes"), planned.map((target) => h("li", {}, planLine(target))));
}

function planName(plan) {
  if (plan.policy === "plain") return "plain decoding";
  return plan.groups.length ? "groups" : "open flow";
}

function planLine({ name, plan }) {
  const groups = plan.groups.map((gammas) => {
    const low = Math.min(...gammas);
    const high = Math.max(...gammas);
    return `${plural(gammas.length, "stream")} with ${low === high ? low : `${low} to ${high}`} guesses`;
  });
  if (plan.policy === "plain") return `${name}: plain decoding, by the coordinator's policy.`;
  if (!groups.length) return `${name}: open flow, no stream waits for another.`;
  const bound = plan.bound ? `, bound by ${plan.bound}` : "";
  return `${name}: groups that wait for their guesses (${plan.policy}): ${groups.join("; ")}${bound}.`;
}

function showAir(status) {
  const { num_dropped, num_stale, num_moved } = status.totals;
  const wire = (direction) => sum(status.totals.wire.filter((total) => total.direction === direction).map((total) => total.num_bytes));
  const media = status.media.map((medium) => h("div", { class: "row" },
    h("span", { title: medium.name }, medium.name),
    h("i", { class: "meter", share: Math.min(1, medium.busy) }),
    h("span", {}, `${percent(medium.busy)} reserved, ${duration(medium.reserved_s)} in total`)));
  fill($("air"),
    media.length ? media : emptyNote("No link is declared to use a shared medium."),
    h("p", { class: "why" }, `The coordinator received ${size(wire("in"))} and sent ${size(wire("out"))}. ${count(num_dropped)} messages were not allowed, ${count(num_stale)} came too late, and ${plural(num_moved, "stream")} moved to another target.`));
}
