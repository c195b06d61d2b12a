// Formats numbers for display.

const MISSING = "–";

function fixed(value, digits) {
  return value === null || value === undefined || !Number.isFinite(value)
    ? MISSING
    : value.toFixed(digits);
}

function count(value) {
  return Math.round(value).toLocaleString("en");
}

function percent(share) {
  return share === null || share === undefined || !Number.isFinite(share)
    ? MISSING
    : `${Math.round(share * 100)} %`;
}

function duration(seconds) {
  if (!(seconds > 0)) return MISSING;
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  return `${seconds.toFixed(1)} s`;
}

function uptime(seconds) {
  if (seconds < 60) return [String(Math.floor(seconds)), "s"];
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return [String(minutes), "min"];
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return [`${hours}:${String(minutes % 60).padStart(2, "0")}`, "h"];
  return [String(Math.floor(hours / 24)), "days"];
}

function rate(bps) {
  if (bps === null) return "";
  return bps >= 1e6 ? `${(bps / 1e6).toFixed(1)} Mbit/s` : `${(bps / 1e3).toFixed(0)} kbit/s`;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value.toFixed(unit && value < 100 ? 1 : 0)} ${units[unit]}`;
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

// The element-wise sum of lists of the same length.
function added(lists) {
  return lists.reduce((total, list) => list.map((value, at) => value + (total[at] || 0)), []);
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1).replace(/[.]?$/, ".");
}

function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
