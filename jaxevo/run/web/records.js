// The rollouts that the page carries, and what is being looked at, which the address says too:
// #round=3&row=5&signal=entropy opens row 5 of round 3, counted from 0 as the run sampled them.
const {records: compact = [], prompts = [], vocabulary = {}} = data.rollouts;
const records = compact.map(expand);
const shownRounds = unique(records.map((r) => r.round)).sort((a, b) => a - b);
const nth = new Map();  // "round group" -> which group of its round, from 1; their ids are long
for (const r of records) {
  const count = nth.get(r.round) ?? 0;
  if (!nth.has(groupKey(r))) { nth.set(groupKey(r), count + 1); nth.set(r.round, count + 1); }
}
const DEFAULTS = {
  round: "", row: "", group: "", role: "", finish: "", learnt: "", text: "", low: "", high: "",
  sort: "group", signal: "log-prob", follow: "", which: "first",
};
const ALL = "all";
const state = {...DEFAULTS};

function expand(r) {  // the inverse of `compacted` in selection.py
  const tokens = r.tokens ?? r.ids.map((id) => vocabulary[id]);
  const mask = r.mask ?? r.sources.flatMap(([source, length]) => Array(length).fill(source === "policy" ? 1 : 0));
  return {...r, prompt: prompts[r.prompt], tokens, mask, answer: r.answer ?? tokens.join("")};
}

function groupKey(r) { return `${r.round} ${r.group}`; }
function groupName(r) { return `group ${nth.get(groupKey(r))}`; }

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(DEFAULTS)) state[name] = asked.get(name) ?? DEFAULTS[name];
  return [...asked.keys()].some((name) => name in DEFAULTS);
}

function writeAddress() {
  const told = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
  history.replaceState(null, "", "#" + new URLSearchParams(told));
}

function nearestRound(wanted) {
  return shownRounds.reduce((best, r) => Math.abs(r - wanted) < Math.abs(best - wanted) ? r : best);
}

function matches(r) {
  const bound = (text) => text === "" ? null : Number(text), low = bound(state.low), high = bound(state.high);
  const text = state.text.toLowerCase();
  return (state.round === ALL || String(r.round) === state.round) && (!state.group || String(r.group) === state.group)
    && (!state.role || r.role === state.role) && (!state.finish || String(r.finish) === state.finish)
    && (!state.learnt || state.learnt === learnt(r)) && (low === null || r.reward >= low) && (high === null || r.reward <= high)
    && (!text || [r.prompt, r.answer, r.feedback, r.task].some((t) => (t ?? "").toLowerCase().includes(text)));
}

function learnt(r) {  // an idle row was in the batch and taught nothing: no forward pass was made for it
  if (!r.trained) return "not trained";
  return r.signals && Object.keys(r.signals).some((name) => name !== "entropy") ? "trained" : "idle";
}

const meanOf = (values) => { const known = (values ?? []).filter(isNumber); return known.length ? mean(known) : -Infinity; };
const ORDERS = {  // value -> [what the menu says, smaller comes first]
  group: ["group", (r) => [r.round, r.group]],
  best: ["highest reward", (r) => [-(r.reward ?? -Infinity)]],
  worst: ["lowest reward", (r) => [r.reward ?? Infinity]],
  long: ["longest", (r) => [-r.ids.length]],
  short: ["shortest", (r) => [r.ids.length]],
  unsure: ["least likely tokens", (r) => [Math.min(...(r.logp ?? []).filter(isNumber), Infinity)]],
  entropy: ["highest entropy", (r) => [-meanOf(r.signals?.entropy)]],
};
function sorted(rows) {
  const keyed = rows.map((r) => [ORDERS[state.sort]?.[1](r) ?? [r.round, r.group], r]);
  keyed.sort(([a], [b]) => { const i = a.findIndex((v, n) => v !== b[n]); return i < 0 ? 0 : a[i] - b[i]; });
  return keyed.map(([, r]) => r);
}
