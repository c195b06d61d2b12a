// Draws the charts of the last minutes and the timeline of passes and guesses of the last seconds.

const SHOWN_S = 300;
const PASSES_SHOWN = 30;

function showHistory(history, now) {
  const rates = history.filter(([, , share]) => share !== null).map(([at, , share]) => [at, share]);
  const most = Math.max(1, ...history.map(([, speed]) => speed));
  line($("speed-chart"), history, now, most, (speed) => fixed(speed, 1), "tokens per second");
  line($("rate-chart"), rates, now, 1, percent, "share of guesses accepted");
  setText($("speed-now"), history.length ? fixed(history.at(-1)[1], 1) : "");
  setText($("rate-now"), rates.length ? percent(rates.at(-1)[1]) : "");
}

// points: [seconds, value, ...]. most: the value at the top. shown: what is written for a value.
function line(box, points, now, most, shown, what) {
  const recent = points.filter(([at]) => at >= now - SHOWN_S);
  if (recent.length < 2) {
    fill(box, emptyNote("Figures are collected while a status page is open."));
    return;
  }
  const x = (at) => 600 * (1 - (now - at) / SHOWN_S);
  const y = (value) => 100 - (92 * value) / most;
  const steps = recent.map(([at, value]) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`);
  const start = x(recent[0][0]).toFixed(1);
  const end = x(recent.at(-1)[0]).toFixed(1);
  const values = recent.map(([, value]) => value);
  const label = `${what}, last five minutes: from ${shown(Math.min(...values))} to ${shown(Math.max(...values))}, now ${shown(values.at(-1))}`;
  fill(box,
    h("span", { class: "top-label" }, shown(most)),
    svg("svg", { viewBox: "0 0 600 100", preserveAspectRatio: "none", role: "img", "aria-label": label },
      svg("path", { class: "area", d: `M${start} 100L${steps.join("L")}L${end} 100Z` }),
      svg("path", { d: `M${steps.join("L")}` })),
    h("div", { class: "ends" }, h("span", {}, "−5 min"), h("span", {}, "now")));
}

// Seconds that the timeline shows: about PASSES_SHOWN passes.
function windowOf({ counts }) {
  const each = counts.num_passes ? counts.pass_s / counts.num_passes : 0;
  return Math.min(10, Math.max(0.2, each * PASSES_SHOWN));
}

function showTimeline(status) {
  const spans = status.targets.flatMap((target) => target.spans);
  if (!spans.length) {
    setText($("timeline-span"), "");
    fill($("timeline"), emptyNote("Nothing was guessed or decoded in the last ten seconds."));
    return;
  }
  const last = Math.max(...spans.map((span) => span.end_s));
  const shown = Math.max(...status.targets.filter((target) => target.spans.length).map(windowOf));
  const begins = last - shown;
  const recent = spans.filter((span) => span.end_s > begins);
  const names = [...new Set(recent.map((span) => span.node))];
  const isTarget = new Set(status.targets.map((target) => target.name));
  names.sort((a, b) => isTarget.has(b) - isTarget.has(a) || a.localeCompare(b));
  const rows = names.flatMap((name) => {
    const own = recent.filter((span) => span.node === name);
    const busy = sum(own.map((span) => span.end_s - Math.max(begins, span.start_s))) / shown;
    const label = isTarget.has(name)
      ? `${name}: ${plural(own.length, "pass", "passes")}, busy ${percent(Math.min(1, busy))} of the time`
      : `${name}: ${plural(own.length, "message")} with guesses`;
    return [
      h("span", { class: "track-name", title: name }, name),
      svg("svg", { viewBox: "0 0 1000 20", preserveAspectRatio: "none", role: "img", "aria-label": label },
        own.map((span) => stage(span, begins, shown))),
    ];
  });
  setText($("timeline-span"), `the last ${duration(shown)} of work, ${plural(names.length, "node")}`);
  fill($("timeline"), ...rows, h("div", { class: "ends" }, h("span", {}, `−${duration(shown)}`), h("span", {}, "0")));
}

function stage(span, begins, shown) {
  const x = Math.max(0, ((span.start_s - begins) / shown) * 1000);
  const width = Math.max(1.5, ((span.end_s - begins) / shown) * 1000 - x);
  const kind = span.stage === "guesses" ? "draft" : span.num_guesses ? "pass" : "plain";
  const tall = kind === "plain" ? { y: 6, height: 8 } : { y: 2, height: 16 };
  const title = span.stage === "guesses"
    ? `message with ${plural(span.num_guesses, "guess", "guesses")}`
    : `pass of ${plural(span.num_tokens, "token")}, ${count(span.num_guesses)} guessed, in ${duration(span.end_s - span.start_s)}`;
  return titled(svg("rect", { class: kind, x: x.toFixed(1), width: width.toFixed(1), ...tall }), title);
}
