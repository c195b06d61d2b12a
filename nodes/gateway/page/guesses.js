// Shows the results of guesses since the coordinator started, and why passes had none.

const KINDS = {
  accepted: "guessed and accepted",
  corrected: "corrected by the target",
  bonus: "bonus after right guesses",
  plain: "plain, without a guess",
};
const FATES = {
  taken: "used by a pass",
  not_chosen: "there, but not taken",
  late: "late",
  looked_up: "found by prompt lookup",
  in_turns: "of the draft model in the target's process",
};

function showGuesses(status) {
  const all = status.targets.map((target) => target.counts);
  const judged = added(all.map((counts) => counts.judged));
  const accepted = added(all.map((counts) => counts.accepted));
  const made = sum(added(all.map((counts) => counts.made)));
  setText($("guesses-count"), made ? `${count(sum(accepted))} of ${count(made)} accepted` : "");
  const known = judged.findLastIndex((value) => value > 0) + 1;
  fill($("positions"), known
    ? judged.slice(0, known).map((of, at) => bar(of ? accepted[at] / of : 0, of ? brief(accepted[at] / of) : "", at + 1,
      `position ${at + 1}: ${count(accepted[at])} of ${count(of)} accepted`))
    : emptyNote("No guess has been verified yet."));
  const gammas = added(all.map((counts) => counts.gammas));
  const total = sum(gammas);
  const most = Math.max(1, ...gammas);
  const used = gammas.findLastIndex((value) => value > 0) + 1;
  fill($("gammas"), used
    ? gammas.slice(0, Math.max(used, 2)).map((value, at) => bar(value / most, value ? brief(value / total) : "", at,
      `${plural(at, "guess", "guesses")}: ${count(value)} of ${count(total)} passes of a stream`))
    : emptyNote("No pass has run yet."));
  showKinds(all);
  showFates(all);
}

function showFates(all) {
  const of = (fate) => sum(all.map((counts) => counts.guesses[fate] || 0));
  const total = sum(Object.keys(FATES).map(of));
  const compared = sum(all.map((counts) => counts.num_compared));
  const right = sum(all.map((counts) => counts.num_right));
  const parts = Object.entries(FATES).filter(([fate]) => of(fate)).map(([fate, words]) => `${words} ${percent(of(fate) / total)}`);
  const read = sum(all.map((counts) => counts.tokens_read));
  const reused = sum(all.map((counts) => counts.tokens_reused));
  setText($("prompts"), `Of ${plural(read + reused, "prompt token")}, ${count(reused)} were in caches of targets.`);
  setText($("fates"), total ? `Guesses: ${parts.join(", ")}. Used or not, ${count(right)} of ${count(compared)} compared guesses matched the text.` : "");
}

// A percentage of at most two digits, without the sign.
function brief(share) {
  return share > 0 && share < 0.005 ? "<1" : String(Math.round(share * 100));
}

function bar(share, label, name, title) {
  return h("div", { title }, h("i", { share: share.toFixed(4) }), h("b", {}, label), h("span", {}, String(name)));
}

function showKinds(all) {
  const of = (kind) => sum(all.map((counts) => counts.tokens[kind] || 0));
  const total = sum(Object.keys(KINDS).map(of));
  if (!total) {
    fill($("kinds"), emptyNote("No tokens yet."));
    setText($("why-plain"), "");
    return;
  }
  fill($("kinds"),
    h("div", { class: "stack", "aria-hidden": "true" }, Object.keys(KINDS).filter(of).map((kind) => h("i", { class: `k-${kind}`, share: of(kind) / total }))),
    h("ul", { class: "legend" }, Object.entries(KINDS).map(([kind, words]) =>
      h("li", {}, h("i", { class: `swatch k-${kind}` }), `${percent(of(kind) / total)} ${words}`))));
  const reasons = Object.keys(PLAIN)
    .map((label) => [PLAIN[label], sum(all.map((counts) => counts.plain_steps[label] || 0))])
    .filter(([, steps]) => steps > 0)
    .sort((a, b) => b[1] - a[1]);
  const steps = sum(reasons.map(([, number]) => number));
  setText($("why-plain"), steps ? `Reasons for passes without guesses: ${reasons.slice(0, 4).filter(([, number]) => number >= steps / 200).map(([words, number]) => `${words} (${percent(number / steps)})`).join(", ")}.` : "");
}
