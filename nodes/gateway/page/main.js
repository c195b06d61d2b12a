// Polls the gateway once a second while the page is visible.

const POLL_MS = 1000;
const LOST_POLL_MS = 2000;
const THEME_NAME = "airdraft.colours";
let timer = null;
let isAsking = false;
let lastSeen = null;

async function poll() {
  clearTimeout(timer);
  if (isAsking || document.hidden) return;
  isAsking = true;
  let next = POLL_MS;
  try {
    const found = await whole(await request("/api/status"));
    lastSeen = Date.now();
    show(found);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    next = refused(error);
  } finally {
    // Polling goes on even if this status could not be shown.
    isAsking = false;
    if (next) timer = setTimeout(poll, next);
  }
}

function show({ status, gateway, history }) {
  shownParts({ operate: true });
  state("live", "live");
  notice("");
  document.body.classList.remove("stale");
  setText($("cluster"), status.cluster);
  showTiles(status, history);
  showTopology(status, gateway);
  showHistory(history, status.at_s);
  showTimeline(status);
  showStreams(status);
  showGuesses(status);
  showPlans(status);
  showAir(status);
  const targets = status.nodes.filter((node) => node.role === "target" && node.state !== "left");
  showModels(idsOf(targets).sort());
}

// The id of each model of these nodes: its file name, with the hash if several files have that name.
function idsOf(nodes) {
  const hashes = new Map();
  for (const node of nodes) {
    if (!hashes.has(node.model)) hashes.set(node.model, new Set());
    hashes.get(node.model).add(node.model_hash);
  }
  return [...hashes].flatMap(([name, found]) =>
    found.size === 1 ? [name] : [...found].map((hash) => `${name}@${shortened(hash)}`),
  );
}

// Shortens a hash as in a system fingerprint.
function shortened(hash) {
  return hash.replace(/([0-9a-f]{8})[0-9a-f]+/g, "$1");
}

// Shows an error response. Returns the milliseconds until the next try, or 0 for no further try.
function refused(error) {
  if (error.status === 401) {
    setText($("key-error"), currentKey ? "The gateway does not know this key." : "");
    storeKey("");
    askForKey();
    return 0;
  }
  if (error.status === 403) {
    shownParts({ operate: false });
    state("", "playground only");
    notice("This key lacks the scope 'admin', which the status of the mesh needs.");
    showModels(["?"]);
    return 0;
  }
  shownParts({ operate: lastSeen !== null });
  state("lost", error.status === 0 ? "gateway lost" : "coordinator lost");
  const since = lastSeen === null ? "" : ` The figures below are ${plural(Math.round((Date.now() - lastSeen) / 1000), "second")} old.`;
  notice(sentence(error.message) + since, true);
  document.body.classList.add("stale");
  return LOST_POLL_MS;
}

function shownParts({ operate }) {
  $("ask-key").hidden = true;
  $("shown").hidden = false;
  $("operate").hidden = !operate;
  $("forget").hidden = !currentKey;
}

function askForKey() {
  $("shown").hidden = true;
  $("forget").hidden = true;
  notice("");
  state("", "");
  setText($("cluster"), "");
  $("ask-key").hidden = false;
  $("key").focus();
}

function state(kind, text) {
  $("state").className = `state ${kind}`;
  setText($("state"), text);
}

function notice(text, isBad = false) {
  $("notice").hidden = !text;
  $("notice").classList.toggle("bad", isBad);
  setText($("notice"), text);
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  storeKey($("key").value.trim());
  $("key").value = "";
  knownModels = "";
  poll();
});
$("forget").addEventListener("click", () => {
  clearTimeout(timer);
  if (running) running.abort();
  storeKey("");
  lastSeen = null;
  clearAnswer();
  askForKey();
});

function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  $("theme").value = name;
}

$("theme").addEventListener("change", () => {
  setTheme($("theme").value);
  try {
    localStorage.setItem(THEME_NAME, $("theme").value);
  } catch {
    // Without local storage the choice lasts until the page is closed.
  }
});
try {
  setTheme(localStorage.getItem(THEME_NAME) || "");
} catch {
  setTheme("");
}
document.addEventListener("visibilitychange", poll);
clearAnswer();
showLegend();
poll();
