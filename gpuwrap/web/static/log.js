"use strict";
// A log as text with the colours that its program gave it. Nothing of it is ever taken for markup.
// Lines are kept up to a bound; `\r` writes a line anew, as on a terminal.

const MOST_LINES = 5000, MOST_LINE = 20000;

class LogView {
  constructor(box) {
    this.box = box;
    this.clear();
  }

  clear() {
    this.box.replaceChildren();
    this.style = newStyle();
    this.rest = "";       // an escape sequence that is not complete yet
    this.line = null;     // the line that is being written
    this.fresh = false;   // the next letter begins the line anew
    this.written = 0;
    this.trimmed = false; // lines were left out above, to be had again
  }

  /** Adds text at the end; stays at the end if it was there. */
  add(text, follow) {
    const box = this.box;
    this.write(text);
    if (!follow) return;
    for (; box.childElementCount > MOST_LINES; this.trimmed = true) box.firstElementChild.remove();
    box.scrollTop = box.scrollHeight;
  }

  /** Puts text that stood before the rest above it. */
  prepend(text) {
    const above = document.createElement("pre");
    const view = new LogView(above);
    view.write(text);
    const before = this.box.scrollHeight;
    this.box.prepend(...above.childNodes);
    this.box.scrollTop += this.box.scrollHeight - before;
  }

  /** Says something that is not of the log. */
  say(text) {
    const line = document.createElement("div");
    line.className = "skipped";
    line.textContent = text;
    this.box.append(line);
    this.line = null;
  }

  write(text) {
    text = this.rest + text;
    this.rest = "";
    const open = text.lastIndexOf("\x1b");
    if (open >= 0 && text.length - open < 64 && !/^\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[^[\]])/.test(text.slice(open))) {
      this.rest = text.slice(open);
      text = text.slice(0, open);
    }
    const pieces = /\x1b\[([0-?]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[^[\]]?|\r\n|[\n\r\b]|[^\x1b\n\r\b]+/g;
    for (const piece of text.matchAll(pieces)) {
      const what = piece[0];
      if (what === "\n" || what === "\r\n") this.end();
      else if (what === "\r") this.fresh = true;
      else if (what === "\b") continue;
      else if (what[0] === "\x1b") { if (piece[2] === "m") restyle(this.style, piece[1]); }
      else this.put(what);
    }
  }

  begin() {
    this.line = document.createElement("div");
    this.box.append(this.line);
    this.written = 0;
  }

  put(text) {
    if (!this.line) this.begin();
    if (this.fresh) { this.line.replaceChildren(); this.written = 0; this.fresh = false; }
    if (this.written >= MOST_LINE) return;
    text = text.slice(0, MOST_LINE - this.written).replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
    this.written += text.length;
    if (this.written >= MOST_LINE) text += " … (the line is longer)";
    const name = className(this.style), colour = this.style;
    if (!name && !colour.rgb && !colour.back) { this.line.append(text); return; }
    const span = document.createElement("span");
    span.className = name;
    if (colour.rgb) span.style.color = colour.rgb;
    if (colour.back) span.style.backgroundColor = colour.back;
    span.textContent = text;
    this.line.append(span);
  }

  end() {
    if (!this.line) this.begin();
    if (!this.line.hasChildNodes()) this.line.append("\u200b"); // an empty line has a height
    this.line = null;
    this.fresh = false;
  }
}

function newStyle() { return { b: false, d: false, i: false, u: false, v: false, f: -1, g: -1, rgb: "", back: "" }; }

function className(style) {
  let names = ["b", "d", "i", "u"].filter(name => style[name]);
  let [f, g] = style.v ? [style.g < 0 ? 0 : style.g, style.f < 0 ? 7 : style.f] : [style.f, style.g];
  if (f >= 0) names.push("f" + f);
  if (g >= 0) names.push("g" + g);
  return names.join(" ");
}

// Select Graphic Rendition [ECMA-48, 8.3.117].
function restyle(style, text) {
  const codes = text.split(/[;:]/).map(Number);
  for (let at = 0; at < codes.length; at++) {
    const code = codes[at];
    if (!code) Object.assign(style, newStyle());
    else if (code === 1) style.b = true;
    else if (code === 2) style.d = true;
    else if (code === 3) style.i = true;
    else if (code === 4) style.u = true;
    else if (code === 7) style.v = true;
    else if (code === 22) style.b = style.d = false;
    else if (code === 23) style.i = false;
    else if (code === 24) style.u = false;
    else if (code === 27) style.v = false;
    else if (code >= 30 && code <= 37) { style.f = code - 30; style.rgb = ""; }
    else if (code >= 40 && code <= 47) { style.g = code - 40; style.back = ""; }
    else if (code >= 90 && code <= 97) { style.f = code - 82; style.rgb = ""; }
    else if (code >= 100 && code <= 107) { style.g = code - 92; style.back = ""; }
    else if (code === 39) { style.f = -1; style.rgb = ""; }
    else if (code === 49) { style.g = -1; style.back = ""; }
    else if (code === 38 || code === 48) {
      const [plain, mixed] = code === 38 ? ["f", "rgb"] : ["g", "back"];
      if (codes[at + 1] === 5) {
        const number = codes[at + 2] | 0;
        style[plain] = number < 16 ? Math.max(0, number) : -1;
        style[mixed] = number < 16 ? "" : colourOf(Math.min(255, number));
        at += 2;
      } else if (codes[at + 1] === 2) {
        style[plain] = -1;
        style[mixed] = `rgb(${[2, 3, 4].map(more => Math.min(255, codes[at + more] | 0)).join(",")})`;
        at += 4;
      }
    }
  }
}

function colourOf(number) {
  if (number >= 232) { const grey = 8 + (number - 232) * 10; return `rgb(${grey},${grey},${grey})`; }
  const steps = [0, 95, 135, 175, 215, 255], at = number - 16;
  return `rgb(${steps[Math.floor(at / 36) % 6]},${steps[Math.floor(at / 6) % 6]},${steps[at % 6]})`;
}
