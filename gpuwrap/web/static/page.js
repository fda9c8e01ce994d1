"use strict";
// The page: told once what there is, then what changes (server-sent events). It asks for nothing again and again.
// All that comes from the server is written as text.

const $ = id => document.getElementById(id);
const state = { hello: null, jobs: new Map(), gpus: [], sweeps: [], users: [], ended: [], day: null, arbiter: null, skew: 0 };
const shown = { filter: "", all: false, open: new Set(), job: null, day: "" };
const MOST_ROWS = 200, MOST_NOTES = 8, FOLDED = 3, HIDDEN_SECONDS = 60;
let events = null, logEvents = null, log = null, detail = null, lost = false, hiddenTimer = 0;

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

const now = () => Date.now() / 1000 + state.skew;
const colour = job => job % 8;
const since = at => duration(Math.max(0, now() - at));

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) {
    const minutes = Math.floor(seconds % 3600 / 60), hours = Math.floor(seconds / 3600);
    return minutes && hours < 10 ? `${hours} h ${minutes} min` : `${hours} h`;
  }
  return `${Math.floor(seconds / 86400)} d`;
}

// --- what is told -----------------------------------------------------------------------------------------------

function listen() {
  if (events) return;
  events = new EventSource("events");
  events.addEventListener("hello", message => {
    state.hello = JSON.parse(message.data);
    $("where").textContent = `${state.hello.me}@${state.hello.host}` + (state.hello.sim ? `, simulated GPUs (${state.hello.sim})` : "");
    document.title = `gpurun ${state.hello.host}`;
    if (lost && shown.job) openJob(shown.job, false);
    lost = false;
  });
  events.addEventListener("all", message => { clearAll(); take(JSON.parse(message.data)); });
  events.addEventListener("change", message => take(JSON.parse(message.data)));
  events.addEventListener("full", () => { stop(); tell("down", "so many pages are open that no other is served"); });
  events.onerror = () => {
    lost = true;
    if (events && events.readyState === EventSource.CLOSED) {
      events = null;
      fetch("icon.svg", { method: "HEAD" }).then(answer => {
        if (answer.status === 403) tell("down", "this page is not let in any more: open the link that gpurun web has printed");
        else { tell("down", "gpurun web does not answer as it should: trying again"); setTimeout(listen, 3000); }
      }, () => { tell("down", "no connection to gpurun web: trying again"); setTimeout(listen, 3000); });
    } else tell("down", "no connection to gpurun web: trying again");
  };
}

function stop() { if (events) events.close(); events = null; }

function clearAll() { state.jobs.clear(); state.arbiter = state.day = null; state.gpus = state.sweeps = state.users = state.ended = []; }

function take(told) {
  state.skew = told.now - Date.now() / 1000;
  for (const [number, job] of Object.entries(told.jobs || {})) {
    if (job === null) state.jobs.delete(+number); else state.jobs.set(+number, job);
  }
  for (const name of ["gpus", "sweeps", "users", "ended", "day", "arbiter"]) if (name in told) state[name] = told[name];
  if (told.arbiter) tellArbiter(); else if ($("live").dataset.state !== "up" && state.arbiter && state.arbiter.up) tell("up", "");
  draw(told);
  if (shown.job && told.jobs && String(shown.job) in told.jobs) openJob(shown.job, false);
}

function tellArbiter() {
  const arbiter = state.arbiter;
  if (!arbiter.up) { tell("down", `the arbiter cannot be asked: ${arbiter.text}; trying again`); return; }
  tell("up", "");
  const told = $("arbiter").dataset;
  if (told.pid && told.pid !== String(arbiter.pid)) told.since = clock(now());
  told.pid = arbiter.pid;
  $("arbiter").textContent = `arbiter: pid ${arbiter.pid}` + (told.since ? `, another since ${told.since}` : "");
}

function tell(how, text) {
  $("live").dataset.state = how;
  $("live").textContent = how === "up" ? "live" : how === "down" ? "not live" : "connecting";
  $("banner").hidden = !text;
  $("banner").textContent = text;
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hiddenTimer);
  if (document.hidden) hiddenTimer = setTimeout(() => { stop(); tell("wait", ""); }, HIDDEN_SECONDS * 1000);
  else listen();
});

// --- the overview -----------------------------------------------------------------------------------------------

function draw(told) {
  if ("gpus" in told) drawGpus();
  if ("sweeps" in told) drawSweeps();
  if ("jobs" in told || "arbiter" in told) drawJobs();
  if ("users" in told) drawUsers();
  if ("ended" in told) drawEnded();
  if ("day" in told || "gpus" in told) drawTheDay();
}

function drawGpus() {
  $("gpus").replaceChildren(...state.gpus.map(gpu => {
    const bar = make("div", { class: "bar", role: "img", "aria-label": gpu.text });
    if (gpu.total) {
      for (const [job, held, promised] of gpu.parts) {
        const part = (size, more) => {
          const piece = make("a", { class: `k${colour(job)}${more}`, href: `#/job/${job}`, title: `job ${job}`, tabindex: "-1" });
          piece.style.width = `${100 * size / gpu.total}%`;
          return piece;
        };
        if (held) bar.append(part(held, ""));
        if (promised > held) bar.append(part(promised - held, " promised"));
      }
      if (gpu.strangers) {
        const piece = make("span", { title: "not in the queue" });
        piece.style.width = `${100 * gpu.strangers / gpu.total}%`;
        bar.append(piece);
      }
    }
    const load = gpu.load && Object.values(gpu.load).some(value => value !== null) ? gpu.load_words : "load unknown";
    const left = gpu.notes.length - MOST_NOTES, few = left > 1 ? gpu.notes.slice(0, MOST_NOTES) : gpu.notes;
    const notes = [...few, ...(left > 1 ? [`and ${left} more`] : [])].map(note => {
      const number = /^job (\d+)\b/.exec(note);
      return number
        ? make("li", {}, make("span", { class: `chip k${colour(+number[1])}` }), make("a", { href: `#/job/${number[1]}` }, number[0]), note.slice(number[0].length))
        : make("li", {}, note);
    });
    return make("li", { class: "gpu" },
      make("div", { class: "head" }, make("b", {}, `GPU ${gpu.index}`), make("span", { class: "dim" }, gpu.name),
        make("span", { class: `state ${gpu.state}` }, gpu.state), make("span", { class: "load", title: "utilisation, temperature, power, fan" }, load)),
      bar, make("div", { class: "dim" }, gpu.text), make("ul", {}, ...notes));
  }));
}

function drawSweeps() {
  $("sweeps-section").hidden = !state.sweeps.length;
  $("sweeps").replaceChildren(...state.sweeps.map(sweep => {
    const bar = make("div", { class: "bar", role: "img", "aria-label": sweep.words });
    for (const [size, name] of [[sweep.done - sweep.failed, "done"], [sweep.failed, "bad"], [sweep.run, "runs"]]) {
      const piece = make("div", { class: name });
      piece.style.width = `${100 * size / sweep.total}%`;
      bar.append(piece);
    }
    const find = make("a", { href: "#/", role: "button" }, sweep.name);
    find.addEventListener("click", event => { event.preventDefault(); filterBy(sweep.name); });
    return make("li", { class: "sweep" }, find, bar, make("span", { class: "words" }, sweep.words));
  }));
}

/** Puts rows of a sweep that wait, or stand still, in one row, unless it was opened. */
function rowsOf(jobs) {
  const rows = [], folds = new Map();
  for (const job of jobs) {
    const key = job.sweep && job.place !== 1 ? `${job.sweep[0]} ${job.state}` : null;
    if (key === null || shown.open.has(key)) { rows.push([job]); continue; }
    if (!folds.has(key)) { const row = [job]; row.key = key; folds.set(key, row); rows.push(row); } else folds.get(key).push(job);
  }
  return rows.flatMap(row => row.length < FOLDED && row.length > 1 ? row.map(job => [job]) : [row]);
}

const RANK = { running: 0, granted: 0, stopping: 0, paused: 1, suspended: 1, ended: 1, waiting: 2, held: 3 };

function drawJobs() {
  const all = [...state.jobs.values()];
  const words = shown.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const sweepName = job => job.sweep ? (state.sweeps.find(sweep => sweep.id === job.sweep[0]) || {}).name || "" : "";
  const matching = words.length ? all.filter(job => {
    const text = `${job.id} ${job.name} ${job.user} ${job.state} ${job.command} ${sweepName(job)}`.toLowerCase();
    return words.every(word => text.includes(word));
  }) : all;
  matching.sort((a, b) => RANK[a.state] - RANK[b.state] || (a.place ?? 1e9) - (b.place ?? 1e9) || a.id - b.id);
  const rows = rowsOf(matching), some = shown.all ? rows : rows.slice(0, MOST_ROWS);
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.job : undefined;
  $("jobs").tBodies[0].replaceChildren(...some.map(jobRow));
  if (focused) { const link = $("jobs").querySelector(`a[data-job="${CSS.escape(focused)}"]`); if (link) link.focus({ preventScroll: true }); }
  $("jobs").hidden = !all.length;
  $("no-jobs").hidden = !!rows.length;
  $("no-jobs").textContent = all.length ? "no job has these words" : "no job runs or waits";
  $("more").hidden = some.length === rows.length;
  $("more").textContent = `show all ${rows.length} rows`;
  const run = all.filter(job => RANK[job.state] === 0).length, wait = all.filter(job => job.state === "waiting").length;
  const still = all.filter(job => job.state === "paused" || job.state === "suspended").length;
  $("sums").textContent = [[run, run === 1 ? "runs" : "run"], [still, "paused"], [wait, wait === 1 ? "waits" : "wait"]]
    .filter(([count]) => count).map(([count, word]) => `${count} ${word}`).join(", ");
}

function jobRow(row) {
  const job = row[0], cells = [];
  const link = row.length > 1
    ? make("a", { href: "#/", role: "button", "data-job": job.id, title: "show each of them" }, `${row.length} jobs`)
    : make("a", { href: `#/job/${job.id}`, "data-job": job.id }, String(job.id));
  if (row.length > 1) link.addEventListener("click", event => { event.preventDefault(); shown.open.add(row.key); drawJobs(); });
  cells.push(make("td", { class: "number" }, link));
  const place = job.place ? ` ${ordinal(job.place)}` + (row.length > 1 ? "…" : "") : "";
  cells.push(make("td", { class: "short" }, make("span", { class: `state ${job.state}` }, job.state), place));
  cells.push(make("td", { class: "number", "data-label": "prio" }, String(job.priority)));
  const devices = [...new Set(row.flatMap(each => each.devices))].sort((a, b) => a - b);
  const any = !job.gpus ? "none" : job.gpus === 1 ? "any" : `any ${job.gpus}`;
  cells.push(make("td", { class: "short", "data-label": "GPU" }, devices.length ? devices.join(",") : any));
  cells.push(make("td", { class: "short" }, job.memory));
  cells.push(make("td", { class: "number", "data-begun": job.begun }, since(job.begun)));
  cells.push(make("td", { class: "short" }, job.user));
  const name = job.name ? make("b", {}, row.length > 1 || !job.sweep ? job.name : `${job.name}[${job.sweep[1]}]`, " ") : null;
  const what = make("td", { class: "command" }, name, make("span", { class: "what" }, job.command));
  if (job.why) what.append(make("div", { class: "why" }, job.why));
  cells.push(what);
  return make("tr", {}, ...cells);
}

function ordinal(number) {
  const last = number % 100;
  return number + (last > 10 && last < 14 ? "th" : ["th", "st", "nd", "rd"][number % 10] || "th");
}

function drawUsers() {
  $("users-section").hidden = !state.users.length;
  const most = Math.max(0.01, ...state.users.map(user => user.hours));
  $("users").tBodies[0].replaceChildren(...state.users.map(user => {
    const use = make("div");
    use.style.width = `${100 * user.hours / most}%`;
    const figures = [user.run, user.wait, user.gpus].map(count => make("td", { class: "number" }, String(count || "")));
    return make("tr", {}, make("td", {}, user.user), ...figures, make("td", { class: "number" }, user.hours.toFixed(user.hours < 10 ? 2 : 1)),
      make("td", { class: "use", "aria-hidden": "true" }, use));
  }));
}

function drawEnded() {
  $("ended-section").hidden = !state.ended.length;
  $("ended").tBodies[0].replaceChildren(...state.ended.map(job => {
    const what = make("td", { class: "command" }, job.name ? make("b", {}, job.name, " ") : null, make("span", { class: "what" }, job.command));
    if (job.text) what.append(make("div", { class: "why" }, job.text));
    return make("tr", {}, make("td", { class: "number" }, make("a", { href: `#/job/${job.id}` }, String(job.id))),
      make("td", { class: "short" }, make("span", { class: job.well ? "" : "failed" }, job.words)),
      make("td", { class: "short" }, job.ended ? clock(job.ended) : ""), make("td", { class: "number" }, duration(job.ran)),
      make("td", { class: "short" }, job.user), what);
  }));
}

function drawTheDay() {
  const width = $("day").clientWidth || 900;
  const key = JSON.stringify([state.day, state.gpus.map(gpu => gpu.index), width, Math.floor(now() / 60)]);
  if (key === shown.day || $("overview").hidden) return;
  shown.day = key;
  drawDay($("day"), state.day, state.gpus.map(gpu => gpu.index), now(), colour, width);
}

// --- one job ----------------------------------------------------------------------------------------------------

async function openJob(number, anew = true) {
  shown.job = number;
  $("overview").hidden = true;
  $("job").hidden = false;
  if (anew) {
    $("job-title").textContent = `job ${number}`;
    for (const id of ["job-command", "job-why", "job-facts", "job-said", "log-state"]) $(id).replaceChildren();
    $("job-events").tBodies[0].replaceChildren();
    $("job-control").hidden = true;
    $("job-title").focus();
    openLog(number);
  }
  let answer;
  try { answer = await fetch(`jobs/${number}`); } catch { return; }
  const told = await answer.json().catch(() => ({ fault: "not understood" }));
  if (shown.job !== number) return;
  if (told.fault) { $("job-said").textContent = `job ${number}: ${told.fault}`; closeLog(); return; }
  drawJob(told);
}

function drawJob(told) {
  detail = told;
  const job = told.job, ended = job.state === "ended";
  $("job-title").replaceChildren(`job ${job.id} `, told.name ? make("b", {}, told.name, " ") : "",
    make("span", { class: `state ${ended ? (job.result && job.result.code === 0 ? "" : "failed") : job.state}` }, ended ? told.words : job.state));
  $("job-command").textContent = told.command;
  $("job-why").replaceChildren(...told.progress.map(text => make("p", {}, text + ".")), ...told.why.map(text => make("p", {}, text + ".")),
    ...(told.helps.length ? [make("p", { class: "dim" }, "What would help:"), ...told.helps.map(text => make("p", {}, "\u2003" + text))] : []));
  const memory = job.memory_bytes ? `${(job.memory_bytes / 2 ** 30).toFixed(1).replace(/\.0$/, "")}G each` : job.gpus ? "whole" : "";
  const facts = [
    ["user", job.user], ["asks for", `${job.gpus} GPU${job.gpus === 1 ? "" : "s"}${memory ? ", " + memory : ""}`],
    ["priority", `${job.priority} (higher runs first)`], ["may give way by", job.give_way],
    ["GPU", job.devices.map(device => device.index).join(", ")], ["most memory held", told.peak],
    ["came", dateOf(job.submitted_at)], ["waited", told.waited !== null ? duration(told.waited) : job.started_at || ended ? "" : duration(now() - Date.parse(job.submitted_at) / 1000)],
    ["started", dateOf(job.started_at)], ["computed", told.computed ? duration(told.computed) : ""], ["stood still", told.paused ? duration(told.paused) : ""],
    ["gave way", job.times_given_way ? `${job.times_given_way} times` : ""], ["run", job.attempt > 1 ? `number ${job.attempt}` : ""],
    ["ended", job.ended_at ? `${dateOf(job.ended_at)}: ${told.words}${told.text ? ", " + told.text : ""}` : ""],
    ["pid", ended ? "" : job.pid], ["folder", printable(job.cwd)], ["output", told.output || ""],
  ];
  $("job-facts").replaceChildren(...facts.filter(([, value]) => value !== null && value !== "").flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
  $("job-events").tBodies[0].replaceChildren(...told.events.map(each => make("tr", {}, make("td", { class: "short dim" }, dateOf(each.at * 1000)),
    make("td", { class: "short" }, make("span", { class: `state ${each.state}` }, each.state)), make("td", {}, each.why))));
  drawControl(job, told.mine);
}

function printable(text) { return text.replace(/[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]/g, "\ufffd"); }

const CLOCK = { hourCycle: "h23" };

function dateOf(at) {
  if (at === null || at === undefined) return "";
  const date = new Date(at), today = new Date().toDateString() === date.toDateString();
  return today ? date.toLocaleTimeString([], CLOCK) : date.toLocaleString([], CLOCK);
}

function closeJob() {
  shown.job = detail = null;
  closeLog();
  $("job").hidden = true;
  $("overview").hidden = false;
  drawTheDay();
}

// --- its output -------------------------------------------------------------------------------------------------

function closeLog() { if (logEvents) logEvents.close(); logEvents = log = null; }

function openLog(number) {
  closeLog();
  const view = log = new LogView($("log"));
  view.begins = null;
  $("log-earlier").hidden = true;
  const stream = logEvents = new EventSource(`jobs/${number}/log/events`);
  stream.addEventListener("log", message => {
    const chunk = JSON.parse(message.data);
    if (chunk.fault) { $("log-state").textContent = chunk.fault; return; }
    if (view.begins === null || chunk.inode !== view.inode || chunk.begin < view.ends) { view.clear(); view.begins = chunk.begin; }
    else if (chunk.begin > view.ends) {
      view.clear();
      view.say(`… ${sizeOf(chunk.begin - view.ends)} were written faster than they could be shown: earlier shows them …`);
      view.begins = chunk.begin;
    }
    view.inode = chunk.inode;
    view.ends = chunk.end;
    view.add(chunk.text, $("log-follow").checked);
    $("log-state").textContent = chunk.size ? sizeOf(chunk.size) : "nothing so far";
    $("log-earlier").hidden = !view.begins && !view.trimmed;
  });
  stream.addEventListener("fault", message => { $("log-state").textContent = JSON.parse(message.data).fault; stream.close(); });
  stream.addEventListener("over", () => { stream.close(); if (view.ends === undefined) $("log-state").textContent ||= "nothing was written"; });
  stream.onerror = () => { if (stream.readyState === EventSource.CLOSED && log === view && !$("log-state").textContent) $("log-state").textContent = "cannot be had now"; };
}

async function earlier() {
  const view = log, number = shown.job;
  if (!view || !(view.begins || view.trimmed)) return;
  if (view.trimmed) { view.clear(); view.begins = view.ends; }
  const answer = await fetch(`jobs/${number}/log?before=${view.begins}`);
  const chunk = await answer.json();
  if (view !== log || chunk.fault || chunk.inode !== view.inode) return;
  $("log-follow").checked = false;
  if (view.box.firstElementChild && view.box.firstElementChild.className === "skipped") view.box.firstElementChild.remove();
  view.prepend(chunk.text);
  view.begins = chunk.begin;
  $("log-earlier").hidden = !view.begins;
}

function sizeOf(bytes) {
  for (const [unit, factor] of [["G", 2 ** 30], ["M", 2 ** 20], ["K", 1024]]) if (bytes >= factor) return `${(bytes / factor).toFixed(1)}${unit}`;
  return `${bytes} bytes`;
}

// --- changing something -----------------------------------------------------------------------------------------

const ACTS = { waiting: ["pause", "renice", "kill"], held: ["resume", "renice", "kill"], running: ["pause", "renice", "kill"], paused: ["resume", "renice", "kill"] };
const WORDS = { pause: { waiting: "hold", running: "pause" }, resume: { held: "let go", paused: "resume" } };
const PRIORITIES = [["low", -10], ["normal", 0], ["high", 10], ["urgent", 50]];

function drawControl(job, mine) {
  const box = $("job-control");
  const verbs = state.hello && state.hello.control && mine ? ACTS[job.state] || (job.state === "ended" ? [] : ["kill"]) : [];
  box.hidden = !verbs.length;
  if (box.dataset.drawn === `${job.id} ${job.state} ${job.priority}`) return;
  box.dataset.drawn = `${job.id} ${job.state} ${job.priority}`;
  box.replaceChildren(...verbs.map(verb => {
    if (verb === "renice") {
      const options = PRIORITIES.map(([word, value]) => make("option", { value: word, ...(value === job.priority ? { selected: "" } : {}) }, `${word} (${value})`));
      if (!PRIORITIES.some(([, value]) => value === job.priority)) options.unshift(make("option", { value: String(job.priority), selected: "" }, String(job.priority)));
      const choice = make("select", { "aria-label": "priority" }, ...options);
      choice.addEventListener("change", () => act("renice", job.id, choice.value));
      return make("label", {}, "priority ", choice);
    }
    const word = (WORDS[verb] || {})[job.state] || verb;
    const button = make("button", { class: verb === "kill" ? "danger" : "", "data-verb": verb }, word);
    button.addEventListener("click", () => verb === "kill" ? ask(`End job ${job.id}, ${detail.name || detail.command.slice(0, 60)}?`, () => act(verb, job.id)) : act(verb, job.id));
    return button;
  }));
}

function ask(text, then) {
  $("sure-text").textContent = text;
  $("sure").returnValue = "no";
  $("sure").onclose = () => { if ($("sure").returnValue === "yes") then(); };
  $("sure").showModal();
}

async function act(verb, job, value = null) {
  $("job-said").textContent = "…";
  try {
    const answer = await fetch("act", {
      method: "POST", body: JSON.stringify({ verb, job, value }),
      headers: { "Content-Type": "application/json", "X-Gpurun-Csrf": state.hello.csrf },
    });
    const told = await answer.json();
    if (shown.job === job) $("job-said").textContent = told.text;
  } catch { $("job-said").textContent = "no connection to gpurun web: nothing is known of it"; }
  if (shown.job === job) openJob(job, false);
}

// --- keys, and where we are -------------------------------------------------------------------------------------

function filterBy(text) { $("filter").value = shown.filter = text; drawJobs(); $("filter").focus(); }

function route() {
  const found = /^#\/job\/(\d+)$/.exec(location.hash);
  if (found) openJob(+found[1]); else closeJob();
}

function step(by) {
  const links = [...document.querySelectorAll("#jobs a[data-job]")];
  const at = links.indexOf(document.activeElement);
  const next = links[at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + by))];
  if (next) next.focus();
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey || $("sure").open) return;
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) && event.target.type !== "checkbox";
  if (event.key === "Escape") {
    if (typing && event.target.value) { filterBy(""); }
    else if (typing) event.target.blur();
    else if (shown.job) location.hash = "#/";
  } else if (typing) return;
  else if (event.key === "/") { event.preventDefault(); if (shown.job) location.hash = "#/"; setTimeout(() => $("filter").focus()); }
  else if (event.key === "j" && !shown.job) step(1);
  else if (event.key === "k" && !shown.job) step(-1);
});

$("filter").addEventListener("input", () => { shown.filter = $("filter").value; drawJobs(); });
$("more").addEventListener("click", () => { shown.all = true; drawJobs(); });
$("log-earlier").addEventListener("click", earlier);
$("log-follow").addEventListener("change", () => { if ($("log-follow").checked) $("log").scrollTop = $("log").scrollHeight; });
window.addEventListener("hashchange", route);
window.addEventListener("resize", () => drawTheDay());
setInterval(() => {
  for (const cell of document.querySelectorAll("#jobs td[data-begun]")) {
    const text = since(+cell.dataset.begun);
    if (cell.textContent !== text) cell.textContent = text;
  }
  drawTheDay();
}, 1000);
listen();
route();
