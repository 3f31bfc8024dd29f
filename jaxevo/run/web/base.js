"use strict";
// Elements, numbers and text; the first of the scripts, which run as one.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = document.getElementById("seed").namespaceURI;
const $ = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children) {
    if (child !== null) node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const unique = (values) => [...new Set(values)];
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

function show(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  let text;
  if (size >= 1e7 || (size > 0 && size < 1e-3)) text = value.toExponential(2).replace("e+", "e");
  else if (Number.isInteger(value) || size >= 1e4) text = Math.round(value).toLocaleString("en");
  else text = size >= 100 ? value.toFixed(1) : size >= 10 ? value.toFixed(2) : value.toFixed(3);
  return text.replaceAll("-", "\u2212");
}
const signed = (value) => (value > 0 ? "+" : "") + show(value);
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const clock = (s) => s < 100 ? `${s.toFixed(1)} s` : s < 6000 ? `${(s / 60).toFixed(1)} min` : `${(s / 3600).toFixed(1)} h`;

function pretty(text, indent = "") {  // a repr; what does not fit a line is broken at its commas
  const open = text.search(/[([{]/);
  if (indent.length + text.length <= 100 || open < 0) return text;
  const parts = [];
  let depth = 0, quote = "", start = open + 1, i = open;
  for (; i < text.length; i++) {
    const c = text[i];
    if (quote) { if (c === "\\") i++; else if (c === quote) quote = ""; }
    else if (c === "'" || c === '"') quote = c;
    else if ("([{".includes(c)) depth++;
    else if (")]}".includes(c) && --depth === 0) break;
    else if (c === "," && depth === 1) { parts.push(text.slice(start, i)); start = i + 1; }
  }
  parts.push(text.slice(start, i));
  const inner = indent + "  ", lines = parts.map((p) => p.trim()).filter(Boolean).map((p) => inner + pretty(p, inner) + ",\n");
  return text.slice(0, open + 1) + "\n" + lines.join("") + indent + text.slice(i);
}


function options(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) => el("option", {value, selected: String(value) === String(chosen)}, text)));
}
