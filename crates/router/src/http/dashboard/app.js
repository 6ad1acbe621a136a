// Polls api/status each second and shows it. Everything from outside becomes a text node, never
// markup. Says so when the router itself doesn't answer.
"use strict";

const POLL_MS = 1000;
const TIMEOUT_MS = 4000;
const CHANGES_SHOWN = 12;
const LABELS = ["", "", "State", "Timeline", "Lag", "Sync", "Write sessions", "Read sessions", ""];
const ROLES = {
  primary: "PRIMARY", promoting: "PROMOTING", replica: "REPLICA",
  lagging: "LAGGING", detached: "NOT STREAMING", other: "DOWN",
};

const byId = (id) => document.getElementById(id);
let lastAnswer = null;

function setText(node, text) {
  // Untouched when equal: a selection or a screen reader isn't disturbed.
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

// A number and its unit stay on one line.
function unbroken(text) {
  return text.replace(/(\d) (B|[KMGTP]iB|s|min|h|days)\b/g, "$1\u00a0$2");
}

function setParts(node, parts) {
  if (node.textContent !== parts.join("")) node.replaceChildren(...parts.map((part) => make("span", "", part)));
}

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i += 1; }
  return `${i === 0 ? n : n.toFixed(1)} ${units[i]}`;
}

function span(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

function count(n, one, many) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

function rows(table, keys) {
  const have = new Map([...table.children].map((row) => [row.dataset.key, row]));
  const wanted = keys.map((key) => {
    const row = have.get(key) ?? newRow(key);
    have.delete(key);
    return row;
  });
  for (const row of have.values()) row.remove();
  wanted.forEach((row, i) => {
    if (table.children[i] !== row) table.insertBefore(row, table.children[i] ?? null);
  });
  return wanted;
}

function newRow(key) {
  const row = make("tr");
  row.dataset.key = key;
  LABELS.forEach((label, i) => {
    const cell = make(i === 0 ? "th" : "td");
    if (i === 0) cell.scope = "row";
    if (label) cell.dataset.label = label;
    cell.append(make("span"));
    row.append(cell);
  });
  return row;
}

function fill(row, i, text, cellClass, spanClass) {
  const cell = row.children[i];
  setClass(cell, cellClass ?? "");
  setClass(cell.firstChild, spanClass ?? "");
  setText(cell.firstChild, text);
}

function sessions(port) {
  return [port.sessions.toLocaleString("en"), port.sessions === 0 ? "zero" : ""];
}

function showMember(row, member, maxLag) {
  setClass(row, member.condition);
  fill(row, 0, member.name);
  const role = member.condition === "other" && member.state === "running" ? "UNKNOWN" : ROLES[member.condition];
  fill(row, 1, role, "role", `badge ${member.condition}`);
  fill(row, 2, member.noloadbalance ? `${member.state}, no reads` : member.state);
  fill(row, 3, member.timeline === null ? "–" : String(member.timeline), "number");
  const leads = member.condition === "primary" || member.condition === "promoting";
  const lag = leads ? "–" : member.lag_bytes === null ? "unknown" : bytes(member.lag_bytes);
  fill(row, 4, lag, !leads && member.lag_bytes > maxLag ? "number late" : "number", leads ? "zero" : "");
  fill(row, 5, member.sync === "none" ? "–" : member.sync, "", member.sync === "none" ? "zero" : "");
  fill(row, 6, sessions(member.write)[0], "number", sessions(member.write)[1]);
  fill(row, 7, sessions(member.read)[0], "number", sessions(member.read)[1]);
  fill(row, 8, member.address, "address");
}

function showMembers(status) {
  const rank = { primary: 0, promoting: 0 };
  const members = [...status.members].sort((a, b) =>
    (rank[a.condition] ?? 1) - (rank[b.condition] ?? 1) || a.name.localeCompare(b.name, "en", { numeric: true }));
  const table = byId("members").tBodies[0];
  rows(table, members.map((member) => member.name)).forEach((row, i) => showMember(row, members[i], status.max_lag));
  byId("members").hidden = members.length === 0;
  byId("no-members").hidden = members.length > 0;
}

function showPort(id, port, status) {
  const targets = status.members.filter((member) => member[id].routed).map((member) => member.name);
  const where = {
    primary: "primary", replicas: "replicas", leader: "primary, no replica is eligible",
    waiting: "replicas without a primary", nobody: "new connections wait",
  };
  const target = byId(`${id}-target`);
  setText(target, port.source === "nobody" ? "nobody" : `→ ${targets.join(", ")}`);
  const tone = { nobody: "bad", leader: "warn", waiting: "warn" }[port.source] ?? "";
  setClass(target, tone ? `big ${tone}` : "big");
  const refused = Object.entries(port.refused).filter(([why, n]) => n > 0 && why !== "client_gone")
    .reduce((sum, [, n]) => sum + n, 0);
  const parts = [
    where[port.source],
    count(port.total.sessions, "session", "sessions"),
    `${port.rate.toLocaleString("en")}/s new`,
    `${bytes(port.total.bytes_in)} in, ${bytes(port.total.bytes_out)} out`,
  ];
  if (refused > 0) parts.push(`${refused.toLocaleString("en")} refused`);
  if (port.addresses.length > 0) parts.push(`on ${port.addresses.join(", ")}`);
  setParts(byId(`${id}-detail`), parts);
}

function showHeld(status) {
  const held = byId("held");
  setText(held, status.held.now === 0 ? "none" : status.held.now.toLocaleString("en"));
  setClass(held, status.held.now === 0 ? "big" : "big warn");
  setText(byId("held-detail"), status.held.now === 0
    ? `a new connection waits up to ${span(status.held.patience_seconds)} for a server`
    : `the longest for ${span(status.held.longest_seconds)} of ${span(status.held.patience_seconds)}`);
}

function age(status, at) {
  return Math.max(0, (Date.parse(status.now) - Date.parse(at)) / 1000);
}

function clock(at) {
  return new Date(at).toLocaleTimeString("en-GB");
}

function showChange(status) {
  const change = status.leader_change;
  setText(byId("change"), change ? `${change.from ?? "?"} → ${change.to}` : "none");
  setText(byId("change-detail"), change
    ? `${span(age(status, change.at))} ago, at ${clock(change.at)} (term ${change.term})`
    : "none since this router started");
}

function showChanges(status) {
  const items = status.changes.slice(0, CHANGES_SHOWN).map((change) => {
    const item = make("li");
    const time = make("time", "", clock(change.at));
    time.dateTime = change.at;
    time.title = change.at;
    item.append(time, make("span", "ago", `${span(age(status, change.at))} ago`), make("span", `what ${change.kind}`, change.text));
    return item;
  });
  byId("changes").replaceChildren(...items);
  byId("no-changes").hidden = items.length > 0;
}

function showFreshness(status) {
  const { age_seconds: seconds, stale } = status.freshness;
  const text = seconds === null ? "STALE: view never confirmed"
    : stale ? `STALE: view confirmed ${span(seconds)} ago` : `view confirmed ${span(seconds)} ago`;
  setText(byId("freshness"), text);
  setClass(byId("freshness"), stale ? "pill bad" : "pill ok");
}

function show(status) {
  setText(byId("cluster"), status.cluster);
  setText(byId("health"), unbroken(status.health.sentence));
  setClass(byId("health"), `banner ${status.health.level}`);
  const primary = status.write.total.routed ? status.leader?.name : null;
  document.title = `${status.cluster}: ${primary ?? "NO PRIMARY"}`;
  showFreshness(status);
  const notes = byId("notes");
  notes.replaceChildren(...status.notes.map((note) => make("li", "", note)));
  notes.hidden = status.notes.length === 0;
  showMembers(status);
  showPort("write", status.write, status);
  showPort("read", status.read, status);
  showHeld(status);
  showChange(status);
  showChanges(status);
  const { version, phase, uptime_seconds: uptime, connections, max_connections: limit } = status.router;
  const sync = status.sync_mode ? ` · synchronous mode: ${status.sync_mode}` : "";
  setText(byId("router"), `router ${version}${phase === "running" ? "" : ` (${phase})`} · up ${span(uptime)} · ` +
    `${connections.toLocaleString("en")} of ${limit.toLocaleString("en")} connections${sync}`);
}

function showUnreachable(reason) {
  const banner = byId("unreachable");
  const since = lastAnswer === null ? "It has not answered yet."
    : `Below is what it said ${span((Date.now() - lastAnswer) / 1000)} ago.`;
  setText(banner, `This router doesn't answer (${reason}). ${since}`);
  banner.hidden = false;
  setClass(byId("main"), "lost");
  setText(byId("freshness"), "router unreachable");
  setClass(byId("freshness"), "pill bad");
  document.title = "router unreachable";
}

async function poll() {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), TIMEOUT_MS);
  try {
    const answer = await fetch("api/status", { cache: "no-store", signal: abort.signal });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const status = await answer.json();
    lastAnswer = Date.now();
    byId("unreachable").hidden = true;
    setClass(byId("main"), "");
    show(status);
  } catch (error) {
    showUnreachable(error.name === "AbortError" ? `no answer within ${TIMEOUT_MS / 1000} s` : error.message);
  } finally {
    clearTimeout(timer);
    setTimeout(poll, POLL_MS);
  }
}

poll();
