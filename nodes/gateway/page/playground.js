// The playground: sends one prompt and shows how its answer was made.

let running = null;
let knownModels = "";

// Fetches the list of models again if the models of the mesh, which `wanted` names, have changed.
async function showModels(wanted) {
  if (wanted === knownModels) return;
  knownModels = wanted;
  try {
    const served = (await whole(await request("/v1/models"))).data.map((model) => model.id);
    const chosen = $("model").value;
    fill($("model"), h("option", { value: "" }, "Any"), served.map((name) => h("option", { value: name }, name)));
    $("model").value = served.includes(chosen) ? chosen : "";
    // Otherwise the outcome is that of the last answer.
    if ($("go").disabled && !running) {
      outcome([]);
      $("go").disabled = false;
    }
  } catch (error) {
    if (error.status === 403) {
      outcome(["This key lacks the scope 'infer', which the playground needs."], true);
      $("go").disabled = true;
    } else {
      // Other errors need no text here: the poll of the mesh status reports them.
      knownModels = "";
    }
  }
}

function outcome(parts, isError = false) {
  $("outcome").classList.toggle("error", isError);
  fill($("outcome"), ...parts);
}

function bodyOf() {
  const messages = [{ role: "user", content: $("prompt").value }];
  if ($("system").value.trim()) messages.unshift({ role: "system", content: $("system").value });
  const body = {
    messages,
    stream: true,
    stream_options: { include_usage: true },
    airdraft: { tokens: true },
  };
  // The gateway knows what is usual where a field is empty.
  for (const [name, field] of [["temperature", "temperature"], ["max_tokens", "max-tokens"], ["seed", "seed"]]) {
    if ($(field).value !== "") body[name] = Number($(field).value);
  }
  if ($("model").value) body.model = $("model").value;
  return body;
}

async function generate() {
  const control = new AbortController();
  running = control;
  $("go").disabled = true;
  $("stop").disabled = false;
  clearAnswer();
  outcome(["Waiting for the first token."]);
  const run = { asked: performance.now(), first: null, last: null, numFirst: 0, num: 0, usage: null, reason: "" };
  try {
    const answer = await request("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(bodyOf()),
      signal: control.signal,
    });
    for await (const event of events(answer)) takeEvent(event, run);
    outcome(resultParts(run));
  } catch (error) {
    if (error.name === "AbortError") outcome(["Stopped. ", ...resultParts(run)]);
    else if (error instanceof Refused) outcome([sentence(error.message)], true);
    else throw error;
  } finally {
    running = null;
    $("go").disabled = false;
    $("stop").disabled = true;
    showLegend();
  }
}

function takeEvent(event, run) {
  if (event.usage) run.usage = event.usage;
  for (const choice of event.choices) if (choice.finish_reason) run.reason = choice.finish_reason;
  const rows = event.airdraft ? event.airdraft.tokens : [];
  if (!rows.length) return;
  run.last = performance.now();
  if (run.first === null) {
    run.first = run.last;
    run.numFirst = rows.length;
    outcome(["Generating the answer."]);
  }
  run.num += rows.length;
  addTokens(rows);
}

function resultParts(run) {
  if (!run.num) return ["No tokens arrived."];
  const seconds = (run.last - run.first) / 1000;
  const later = run.num - run.numFirst;
  const parts = [h("b", {}, plural(run.num, "token"))];
  if (later > 0 && seconds > 0) parts.push(" at ", h("b", {}, `${fixed(later / seconds, 1)} tokens/s`));
  parts.push(`, the first after ${duration((run.first - run.asked) / 1000)}. `);
  if (run.usage) {
    const own = run.usage.airdraft;
    parts.push(own.drafted ? h("b", {}, `${count(own.accepted)} of ${count(own.drafted)} guesses accepted`) : "No guesses were made",
      own.drafted ? ` (${percent(own.accepted / own.drafted)}). ` : ". ",
      `Seed ${own.seed}${own.emulated ? ", emulated" : ""}.`);
    if (run.reason === "length") parts.push(" It stopped at the token limit.");
  } else if (numOfKind.accepted) {
    parts.push(`${percent(numOfKind.accepted / run.num)} of them were guessed.`);
  }
  return parts;
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) generate();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => running && running.abort());
