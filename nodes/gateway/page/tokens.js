// Shows an answer as tokens, each marked with its origin. Arrow keys step through them.

let decoder = new TextDecoder();
let atToken = null;
let numOfKind = {};

function clearAnswer() {
  decoder = new TextDecoder();
  numOfKind = {};
  atToken = null;
  $("answer").replaceChildren();
  setText($("token"), "");
  showLegend();
}

// Appends tokens, and goes on showing the end of the answer if it was shown. Reading where that is lays out
// the whole answer, so it is done once for all of them.
function addTokens(rows) {
  const box = $("answer");
  const isAtEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  box.append(...rows.map(tokenOf));
  if (isAtEnd) box.scrollTop = box.scrollHeight;
}

// Returns the element of a token, given as a row of the gateway: text or bytes, kind, log-probability.
function tokenOf([piece, kind, logprob]) {
  const known = Object.hasOwn(KINDS, kind) ? kind : "plain";
  const bytes = typeof piece === "string" ? new TextEncoder().encode(piece) : new Uint8Array(piece);
  // A character that several tokens make up is shown with the last of them.
  const text = decoder.decode(bytes, { stream: true });
  // The style sheet draws the sign at the end of a line; it is not part of the text.
  const lines = text.split("\n").flatMap((line, at) => (at ? [h("i", { class: "newline" }), "\n", line] : [line]));
  numOfKind[known] = (numOfKind[known] || 0) + 1;
  return h("span", { class: `tok ${known}`, title: about(known, logprob) }, lines);
}

function about(kind, logprob) {
  if (logprob === null) return KINDS[kind];
  return `${KINDS[kind]}; log-probability ${logprob.toFixed(3)} (${percent(Math.exp(logprob))})`;
}

function showLegend() {
  fill($("kinds-legend"), Object.entries(KINDS).map(([kind, words]) =>
    h("li", {}, h("span", { class: `tok ${kind}` }, words), numOfKind[kind] ? count(numOfKind[kind]) : null)));
}

function inspect(token) {
  if (!token) return;
  if (atToken) atToken.classList.remove("at");
  atToken = token;
  token.classList.add("at");
  const text = token.textContent.replaceAll("\n", "↵");
  setText($("token"), `“${text}”: ${token.title}`);
}

$("answer").addEventListener("keydown", (event) => {
  const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  inspect(atToken ? atToken[step] : $("answer").firstElementChild);
  if (atToken) atToken.scrollIntoView({ block: "nearest" });
});
$("answer").addEventListener("click", (event) => inspect(event.target.closest(".tok")));
$("marks").addEventListener("change", () => $("answer").classList.toggle("marked", $("marks").checked));
$("answer").classList.toggle("marked", $("marks").checked);
