// Polls the gateway once a second while the page is visible.

const POLL_MS = 1000;
const LOST_POLL_MS = 2000;
// A connection may be gone without a word; browsers alone would wait for minutes.
const STATUS_LIMIT_MS = 10000;
const THEME_NAME = "airdraft.colours";
let timer = null;
let isAsking = false;
let lastSeen = null;

async function poll() {
  clearTimeout(timer);
  if (isAsking || document.hidden) return;
  isAsking = true;
  // What comes for another key than the present one is not shown.
  const key = currentKey;
  let next = POLL_MS;
  try {
    const found = await whole(await request("/api/status", { signal: AbortSignal.timeout(STATUS_LIMIT_MS) }));
    if (key === currentKey) {
      lastSeen = Date.now();
      show(found);
    }
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (key === currentKey) next = refused(error);
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
  showModels(targets.map((node) => `${node.model} ${node.model_hash}`).sort().join("\n"));
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
    showModels("?");
    return 0;
  }
  shownParts({ operate: lastSeen !== null });
  state("lost", { 0: "gateway lost", 503: "coordinator lost" }[error.status] || `error ${error.status}`);
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
  outcome([]);
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
poll();
