// Sends requests to the gateway. The key is kept in this tab's session and nowhere else.

const KEY_NAME = "airdraft.key";

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function storedKey() {
  try {
    return sessionStorage.getItem(KEY_NAME) || "";
  } catch {
    return "";
  }
}

function storeKey(key) {
  try {
    if (key) sessionStorage.setItem(KEY_NAME, key);
    else sessionStorage.removeItem(KEY_NAME);
  } catch {
    // Without session storage the user has to enter the key after each reload.
  }
  currentKey = key;
}

let currentKey = storedKey();

// Returns a successful response. Throws Refused, with status 0 if the gateway does not answer.
async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (currentKey) headers.Authorization = `Bearer ${currentKey}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The gateway does not answer.");
  }
  if (answer.ok) return answer;
  let message = `The gateway answered with status ${answer.status}.`;
  try {
    message = (await answer.json()).error.message || message;
  } catch {
    // The body is not in the gateway's error format: a proxy may have sent it.
  }
  throw new Refused(answer.status, message);
}

// Returns the next part of a body. Throws Refused if the connection breaks.
async function part(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The answer ended too early.");
  }
}

// Returns the JSON of a response. Throws Refused if the connection breaks.
async function whole(answer) {
  try {
    return await answer.json();
  } catch {
    throw new Refused(0, "The answer ended too early.");
  }
}

// Yields the objects of an event stream. Throws Refused if it ends early or with an error.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await part(reader);
    if (done) break;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new Refused(500, found.error.message);
      yield found;
    }
  }
  throw new Refused(0, "The answer ended too early.");
}
