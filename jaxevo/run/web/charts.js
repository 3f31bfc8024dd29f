// Curves of one run or of several: every chart has one line per run, and all share the axis of rounds.
const SECTIONS = [
  ["Reward", /^(reward|eval|score|tally)(\/|$)/],
  ["Policy", /^(entropy|length|finished_share|error_share|logp_mismatch|weights_age)(\/|$)/],
  ["Optimisation", /(^|\/)(loss|grad_norm)(\/|$)/],
  ["What taught nothing", /(^|\/)(zero_variance_share|idle_share|padding_share|skipped)$|nonfinite\//],
  ["Time and tokens", /^(tokens|tokens_per_second|seconds.*)$/], ["Other", /./],
];
const BOX = {w: 320, h: 138, left: 46, right: 10, top: 8, bottom: 20};
const MANY = 40;  // rounds above which a moving mean is drawn
const HUES = 8;  // line styles of the style sheet
const plotted = {runs: [], rounds: [], low: 0, high: 0, seen: null, at: null, points: []};

function metricKeys(runs) {
  const keys = new Set(), metrics = runs.flatMap((run) => run.metrics);
  for (const m of metrics) for (const [k, v] of Object.entries(m)) if (k !== "round" && isNumber(v)) keys.add(k);
  for (const m of metrics) for (const k of m.nonfinite ?? []) keys.add(k);
  const names = [...keys], heads = unique(names.map((k) => k.split("/")[0]));  // loss, loss/clipped, ... side by side
  return names.sort((a, b) => heads.indexOf(a.split("/")[0]) - heads.indexOf(b.split("/")[0]));
}

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((s) => s * power).find((s) => s >= rough * .999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(i * step);
  return out;
}
function tickText(value) {
  const size = Math.abs(value);
  if (size >= 1e4) return show(value / 1000).replace(/\.0+$/, "") + "k";
  return size && size < 1e-3 ? value.toExponential(1).replace("-", "\u2212") : String(+value.toPrecision(4)).replace("-", "\u2212");
}

function movingMean(points) {
  const half = Math.max(2, Math.round(points.length / 40));
  return points.map((p, i) => [p[0], mean(points.slice(Math.max(0, i - half), i + half + 1).map((q) => q[1]))]);
}

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const v of values) { low = Math.min(low, v); high = Math.max(high, v); }
  if (!values.length) [low, high] = [0, 1];
  if (low >= 0 && low < .5 * high) low = 0;
  return low < high ? [low, high] : low === 0 ? [0, 1] : [Math.min(0, 1.5 * low), Math.max(0, 1.5 * high)];
}

function linesOf(key) {
  return plotted.runs.map((run, i) => ({
    name: run.name, hue: (run.hue ?? i) % HUES, points: run.metrics.filter((m) => isNumber(m[key])).map((m) => [m.round, m[key]]),
    lost: run.metrics.filter((m) => m.nonfinite?.includes(key)).map((m) => m.round),
  })).filter((line) => line.points.length || line.lost.length);
}

function axes(low, high) {
  const {w, h, left, right, top, bottom} = BOX, span = plotted.high - plotted.low;
  return {
    span, x: (r) => left + (span ? (r - plotted.low) / span : .5) * (w - left - right),
    y: (v) => top + (high - v) / (high - low) * (h - top - bottom),
  };
}

function frame(plot, [low, high], {x, y, span}) {
  const {w, h, left, right} = BOX;
  for (const v of ticks(low, high, 4)) {
    plot.append(svg("line", {class: "grid", x1: left, x2: w - right, y1: y(v), y2: y(v)}),
      svg("text", {x: left - 6, y: y(v) + 3.5, "text-anchor": "end"}, tickText(v)));
  }
  for (const r of span ? ticks(plotted.low, plotted.high, 5).filter(Number.isInteger) : [plotted.low]) {
    plot.append(svg("text", {x: x(r), y: h - 5, "text-anchor": "middle"}, r));
  }
}

function draw(plot, {points, lost, hue}, {x, y}) {
  const path = (ps, name) => svg("path", {class: `${name} s${hue}`, d: ps.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("")});
  const smooth = points.length > MANY;
  plot.append(path(points, smooth ? "raw thin" : "raw"));
  if (smooth) plot.append(path(movingMean(points), "mean"));
  else for (const p of points) plot.append(svg("circle", {class: `dot s${hue}`, cx: x(p[0]), cy: y(p[1]), r: 2.2}));
  for (const r of lost) plot.append(svg("path", {class: "bad", d: `M${x(r) - 3} ${BOX.h - BOX.bottom - 7}l6 6m0 -6l-6 6`}));
}

function chart(key) {
  const lines = linesOf(key), limits = range(lines.flatMap((l) => l.points.map((p) => p[1]))), scales = axes(...limits);
  const plot = svg("svg", {viewBox: `0 0 ${BOX.w} ${BOX.h}`, tabindex: 0, role: "img", "aria-label": label(key, lines)});
  frame(plot, limits, scales);
  for (const line of lines) draw(plot, line, scales);
  const cross = svg("line", {class: "cross", y1: BOX.top, y2: BOX.h - BOX.bottom, visibility: "hidden"});
  const marks = lines.map((line) => ({...line, value: new Map(line.points), mark: svg("circle", {class: `at s${line.hue}`, r: 3.6, visibility: "hidden"})}));
  const value = el("output", {});
  plot.append(cross, ...marks.map((m) => m.mark));
  const point = (r) => {
    cross.setAttribute("visibility", r === null ? "hidden" : "visible");
    if (r !== null) { cross.setAttribute("x1", scales.x(r)); cross.setAttribute("x2", scales.x(r)); }
    for (const m of marks) {
      const has = r !== null && m.value.has(r);
      m.mark.setAttribute("visibility", has ? "visible" : "hidden");
      if (has) { m.mark.setAttribute("cx", scales.x(r)); m.mark.setAttribute("cy", scales.y(m.value.get(r))); }
    }
    value.textContent = reading(lines, marks, r);
  };
  point(null);
  plotted.points.push(point);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect(), px = (event.clientX - box.left) / box.width * BOX.w;
    pointAll(nearest(plotted.low + (px - BOX.left) / (BOX.w - BOX.left - BOX.right) * scales.span));
  });
  plot.addEventListener("pointerleave", () => pointAll(null));
  plot.addEventListener("blur", () => pointAll(null));
  plot.addEventListener("click", () => plotted.at !== null && plotted.seen?.(plotted.at));
  plot.addEventListener("keydown", chartKey);
  return el("figure", {class: "card"}, el("figcaption", {}, el("b", {}, key), value), plot);
}

function reading(lines, marks, r) {
  const last = (line) => line.points.length ? show(line.points[line.points.length - 1][1]) : "not finite";
  if (r === null) return lines.length === 1 ? last(lines[0]) : "";
  return `round ${r}: ` + marks.map((m) => m.value.has(r) ? show(m.value.get(r)) : m.lost.includes(r) ? "not finite" : "–").join(" · ");
}

function label(key, lines) {
  const said = lines.map(({name, points}) => {
    const ends = points.length ? `${points.length} rounds, from ${show(points[0][1])} to ${show(points[points.length - 1][1])}` : "no finite value";
    return lines.length > 1 ? `${name}: ${ends}` : ends;
  });
  return `${key}: ${said.join("; ")}. Arrow keys read values.`;
}

function pointAll(round) { plotted.at = round; for (const point of plotted.points) point(round); }
function nearest(x) { return plotted.rounds.reduce((best, r) => Math.abs(r - x) < Math.abs(best - x) ? r : best); }
function chartKey(event) {
  const all = plotted.rounds, step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (event.key === "Enter" && plotted.at !== null) plotted.seen?.(plotted.at);
  else if (event.key === "Escape") pointAll(null);
  else if (step) pointAll(plotted.at === null ? all[all.length - 1] : all[Math.min(all.length - 1, Math.max(0, all.indexOf(plotted.at) + step))]);
  else return;
  event.preventDefault();
}

function curves(home, runs, {note = "", seen = null} = {}) {  // runs: [{name, metrics}]; seen: what a click on a round does
  const rounds = unique(runs.flatMap((run) => run.metrics.map((m) => m.round))).sort((a, b) => a - b);
  Object.assign(plotted, {runs, rounds, low: rounds[0], high: rounds[rounds.length - 1], seen});
  const hint = rounds.length > MANY ? "Thin: every round; bold: moving mean. " : "";
  home.append(el("h2", {}, "Curves"), el("p", {class: "note"}, `${hint}All curves share one axis, the round. Point at a curve to read every value of that round${seen ? "; click to see its rollouts" : ""}. ${note}`));
  let keys = metricKeys(runs);
  for (const [name, pattern] of SECTIONS) {
    const mine = keys.filter((k) => pattern.test(k));
    keys = keys.filter((k) => !pattern.test(k));
    if (mine.length) home.append(el("h3", {}, name), el("div", {class: "charts"}, ...mine.map(chart)));
  }
}
