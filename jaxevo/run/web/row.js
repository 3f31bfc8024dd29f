// One sampled row: its facts, its prompt, and its tokens coloured by a signal.
const SIGNALS = {"log-prob": (r) => r.logp, advantage: (r) => r.advantage, mask: (r) => r.mask};
for (const name of unique(records.flatMap((r) => Object.keys(r.signals ?? {})))) {
  SIGNALS[name in SIGNALS ? `${name} (signal)` : name] = (r) => r.signals?.[name];
}
if ("logp" in SIGNALS) {  // how far the trainer was from the sampler, or the weights have moved since
  SIGNALS["logp − log-prob"] = (r) => r.signals?.logp?.map((v, i) => isNumber(v) && isNumber(r.logp[i]) ? v - r.logp[i] : null);
}
const CALLED = {"log-prob": "log-prob (sampler)", logp: "logp (trainer)"};
const scales = {};
function scale(name) {  // low, high and the 98th percentile of |value| over all rows of the page
  if (scales[name]) return scales[name];
  const values = records.flatMap((r) => (SIGNALS[name](r) ?? []).filter(isNumber)), sizes = values.map(Math.abs).sort((a, b) => a - b);
  const full = sizes[Math.floor(.98 * (sizes.length - 1))] || sizes[sizes.length - 1] || 1;
  return scales[name] = {full, down: values.some((v) => v < 0), up: values.some((v) => v > 0)};
}

const HIDDEN = /[\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u200b-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]/u;
function visible(text) {  // nodes in which white space and invisible characters can be seen
  if (!view.marks) return [document.createTextNode(text)];
  if (text === "") return [el("span", {class: "code"}, "empty")];
  const nodes = [];
  let plain = "";
  const mark = (node) => { if (plain) nodes.push(document.createTextNode(plain)); plain = ""; nodes.push(node); };
  for (const c of text) {
    if (c === "\n") mark(el("span", {class: "ws"}, "⏎\n"));
    else if (c === " ") mark(el("span", {class: "ws"}, "·\u200b"));
    else if (c === "\t") mark(el("span", {class: "ws"}, "⇥\t"));
    else if (HIDDEN.test(c)) mark(el("span", {class: "code"}, "U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")));
    else plain += c;
  }
  if (plain) nodes.push(document.createTextNode(plain));
  return nodes;
}

function tokenSpans(r) {
  const values = SIGNALS[state.signal]?.(r) ?? [], {full} = scale(state.signal);
  return r.tokens.map((text, i) => {
    const span = el("span", {class: r.mask[i] ? "t" : "t given", "data-i": i}, ...visible(text));
    const value = values[i];
    if (isNumber(value) && value !== 0) {
      span.classList.add(value > 0 ? "pos" : "neg");
      span.style.setProperty("--a", Math.min(1, Math.abs(value) / full).toFixed(3));
    }
    return span;
  });
}

function sourceOf(r, i) {
  for (const [source, length] of r.sources ?? []) { if (i < length) return source; i -= length; }
  return r.mask[i] ? "policy" : "given";
}

function tipFor(r, i) {
  const lines = [["token", JSON.stringify(r.tokens[i])], ["id", String(r.ids[i])], ["position", `${i + 1} of ${r.tokens.length}`],
    ["source", sourceOf(r, i)], ["mask", String(r.mask[i])], ["log-prob", show(r.logp[i])]];
  if (isNumber(r.logp[i])) lines.push(["probability", show(Math.exp(r.logp[i]))]);
  for (const [name, read] of Object.entries(SIGNALS)) {
    if (name !== "log-prob" && name !== "mask" && read(r)) lines.push([name, show(read(r)[i])]);
  }
  return el("dl", {}, ...lines.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function tip(span) {
  for (const old of document.querySelectorAll(".t.on")) old.classList.remove("on");
  $("tip").hidden = !span;
  if (!span) return;
  span.classList.add("on");
  $("tip").replaceChildren(tipFor(view.chosen, Number(span.dataset.i)));
  const at = span.getClientRects()[0], box = $("tip").getBoundingClientRect();
  const below = at.bottom + 8 + box.height < innerHeight;
  $("tip").style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - box.width - 8))}px`;
  $("tip").style.top = `${Math.max(8, below ? at.bottom + 8 : at.top - box.height - 8)}px`;
}

function tokenKey(event) {
  const spans = [...event.currentTarget.children], at = spans.findIndex((s) => s.classList.contains("on"));
  const to = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1}[event.key];
  if (event.key === "Escape") tip(null);
  if (to === undefined || !spans.length) return;
  event.preventDefault();
  const span = spans[Math.min(spans.length - 1, Math.max(0, to))];
  span.scrollIntoView({block: "nearest"});
  tip(span);
}

function legend() {
  const {full, down, up} = scale(state.signal);
  const kind = down && up ? "both" : down ? "down" : "up";
  return el("span", {class: "legend"}, down ? show(-full) : "0", el("i", {class: kind}), up ? show(full) : "0");
}

function head(r) {
  const chips = Object.entries(r.rewards ?? {}).map(([name, value]) => el("span", {class: "chip"}, `${name} `, el("b", {}, show(value))));
  const facts = [`task ${r.task}`, `role ${r.role}`, `group ${r.group}`, r.turn ? `turn ${r.turn}` : null, `${r.sampled_tokens ?? r.ids.length} sampled tokens`,
    r.finish ? `finish: ${r.finish}` : null, {trained: "trained on", idle: "idle: taught nothing", "not trained": "not trained on"}[learnt(r)], r.expected ? `expected ${r.expected}` : null, `uid ${r.uid}`];
  const parent = records.find((p) => p.uid === r.parent);
  return [
    el("div", {class: "head"}, el("span", {class: "big"}, `reward ${show(r.reward)}`), ...chips.length ? [el("span", {class: "chips"}, ...chips)] : []),
    el("div", {class: "chips"}, ...facts.filter(Boolean).map((f) => el("span", {class: "chip soft"}, f)),
      parent ? el("button", {type: "button", class: "chip", onclick: () => seeRow(parent)}, "go to the row it continues") : null),
  ];
}

function asText(text) {  // where one character took several tokens
  return el("details", {}, el("summary", {}, "the answer as running text"), el("pre", {}, ...visible(text)));
}

function detail() {
  const r = view.chosen;
  tip(null);
  if (!(state.signal in SIGNALS)) state.signal = DEFAULTS.signal;
  if (!r) { view.detail.replaceChildren(el("p", {class: "empty"}, "Choose a row to read it.")); return; }
  const answer = el("div", {class: "tokens", tabindex: 0, role: "group", "aria-label": "Answer tokens; arrow keys read one token after the other", onkeydown: tokenKey,
    onblur: () => tip(null), onpointerover: (event) => tip(event.target.closest(".t")), onpointerleave: () => tip(null)}, ...tokenSpans(r));
  const signal = el("select", {onchange: (event) => { state.signal = event.target.value; writeAddress(); detail(); view.detail.querySelector("select").focus(); }});
  const known = Object.keys(SIGNALS).filter((n) => SIGNALS[n](r));
  options(signal, unique([...known, state.signal]).map((n) => [n, CALLED[n] ?? n]), state.signal);
  const marks = el("input", {type: "checkbox", checked: view.marks, onchange: (event) => { view.marks = event.target.checked; detail(); view.detail.querySelector("input").focus(); }});
  view.detail.replaceChildren();
  fill(view.detail, {}, [...head(r), el("h3", {}, "Prompt"), el("div", {class: "tokens prompt", tabindex: 0, role: "group", "aria-label": "Prompt"}, ...visible(r.prompt)),
    el("div", {class: "bar"}, el("label", {}, "Colour by", signal), legend(), el("label", {}, marks, "white space"), el("span", {}, el("span", {class: "t given"}, "grey"), ": not sampled, mask 0")),
    el("h3", {}, "Answer"), answer, r.answer === r.tokens.join("") ? null : asText(r.answer), ...(r.feedback ? [el("h3", {}, "Verdict"), el("pre", {}, r.feedback)] : [])]);
}

