"use strict";
// The last day: a row for each GPU, a bar for each job, lighter where it was paused. A bar leads to its job.

const SVG = "http://www.w3.org/2000/svg", DAY = 86400;

function svg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Puts the bars of each GPU into as few lanes as it takes to show none above another. */
function lanesOf(bars, gpus) {
  const found = new Map([...gpus].sort((a, b) => a - b).map(index => [index, new Map()]));
  for (const [job, indices, begun, ended, paused] of bars) {
    for (const index of indices) {
      if (!found.has(index)) found.set(index, new Map());
      const its = found.get(index);
      if (!its.has(job)) its.set(job, []);
      its.get(job).push([begun, ended, paused]);
    }
  }
  return [...found].sort((a, b) => a[0] - b[0]).map(([index, jobs]) => {
    const lanes = [];
    const sorted = [...jobs].map(([job, parts]) => [job, parts.sort((a, b) => a[0] - b[0])]).sort((a, b) => a[1][0][0] - b[1][0][0]);
    for (const bar of sorted) {
      const begun = bar[1][0][0];
      let lane = lanes.find(each => each.until <= begun);
      if (!lane) lanes.push(lane = { until: 0, bars: [] });
      lane.bars.push(bar);
      lane.until = Math.max(...bar[1].map(part => part[1] ?? Infinity));
    }
    return [index, lanes.map(lane => lane.bars)];
  });
}

const MOST_LANES = 8;

function drawDay(box, day, gpus, now, colour, width) {
  const bars = day ? day.bars : [];
  const rows = lanesOf(bars, gpus);
  box.replaceChildren();
  if (!rows.length) return;
  const left = 46, lane = 18, gap = 6, wide = Math.max(300, width), begun = now - DAY;
  const x = at => left + Math.min(1, Math.max(0, (at - begun) / DAY)) * (wide - left - 2);
  const height = rows.reduce((sum, [, lanes]) => sum + Math.min(Math.max(lanes.length, 1), MOST_LANES) * lane + gap, 20);
  const root = svg("svg", { viewBox: `0 0 ${wide} ${height}`, role: "group", "aria-label": "which job had which GPU on the last day" });
  const step = wide < 600 ? 6 : wide < 900 ? 3 : 2, hour = new Date(begun * 1000);
  hour.setMinutes(0, 0, 0);
  for (let at = hour.getTime() / 1000; at < now; at += 3600) {
    const date = new Date(at * 1000);
    if (date.getHours() % step || x(at) <= left) continue;
    root.append(svg("line", { x1: x(at), x2: x(at), y1: 0, y2: height - 16, class: "grid" }));
    if (x(at) < wide - 20) root.append(svg("text", { x: x(at), y: height - 3, "text-anchor": "middle" }, String(date.getHours()).padStart(2, "0") + ":00"));
  }
  let y = 0;
  for (const [index, lanes] of rows) {
    root.append(svg("text", { x: 0, y: y + 13 }, `GPU ${index}`));
    for (const jobs of lanes.length ? lanes.slice(0, MOST_LANES) : [[]]) {
      for (const [job, parts] of jobs) root.append(bar(job, parts, y, lane - 2, x, now, day, colour));
      y += lane;
    }
    if (lanes.length > MOST_LANES) root.append(svg("text", { x: left, y: y + 4 }, `and ${lanes.length - MOST_LANES} more at the same time`));
    y += gap;
  }
  box.append(root);
  if (day && day.left_out) {
    const more = document.createElement("p");
    more.className = "dim";
    more.textContent = `${day.left_out} shorter ones are not drawn`;
    box.append(more);
  }
}

function bar(job, parts, y, height, x, now, day, colour) {
  const [label, user] = day.names[job] || [String(job), ""];
  const from = parts[0][0], until = parts[parts.length - 1][1] ?? now;
  const told = `job ${job}, ${user}: ${label}, ${clock(from)} to ${parts[parts.length - 1][1] === null ? "now" : clock(until)}`;
  const link = svg("a", { href: `#/job/${job}`, "aria-label": told });
  link.append(svg("title", {}, told));
  for (const [begun, ended, paused] of parts) {
    const wide = Math.max(1.5, x(ended ?? now) - x(begun));
    link.append(svg("rect", { x: x(begun), y, width: wide, height, rx: 2, class: `k${colour(job)}${paused ? " still" : ""}` }));
  }
  const room = Math.floor((x(until) - x(from) - 6) / 6.2), text = `${job} ${label}`;
  if (room >= String(job).length) {
    link.append(svg("text", { x: x(from) + 3, y: y + height - 4, class: "in" }, room >= text.length ? text : room > 9 ? text.slice(0, room - 1) + "…" : String(job)));
  }
  return link;
}

function clock(at) { return new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }); }
