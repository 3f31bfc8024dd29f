// One prompt over the rounds: an answer of each, side by side, marked against the one before.
const LONGEST = 1200;  // tokens up to which two answers are aligned by dynamic programming
const CARDS = 24;
const WHICH = {first: "first row", best: "highest reward", worst: "lowest reward"};

function recurring() {  // task -> round -> rows, of the tasks that are in several rounds
  const tasks = new Map();
  for (const r of records) {
    if (!tasks.has(r.task)) tasks.set(r.task, new Map());
    const rounds = tasks.get(r.task);
    rounds.set(r.round, [...(rounds.get(r.round) ?? []), r]);
  }
  return [...tasks].filter(([, rounds]) => rounds.size > 1).sort((a, b) => b[1].size - a[1].size);
}

function pickOne(rows, which) {
  if (which === "first") return rows[0];
  const better = which === "best" ? (a, b) => a > b : (a, b) => a < b;
  return rows.reduce((best, r) => better(r.reward ?? 0, best.reward ?? 0) ? r : best);
}

function aligned(before, after) {  // [["same" | "ins" | "del", token index of its side], ...] by longest common subsequence
  const out = [];
  let start = 0, a = before.length, b = after.length;
  while (start < Math.min(a, b) && before[start] === after[start]) start++;
  while (a > start && b > start && before[a - 1] === after[b - 1]) { a--; b--; }
  for (let i = 0; i < start; i++) out.push(["same", i]);
  if (a - start > LONGEST || b - start > LONGEST) {
    for (let i = start; i < a; i++) out.push(["del", i]);
    for (let j = start; j < b; j++) out.push(["ins", j]);
  } else out.push(...alignedMiddle(before.slice(start, a), after.slice(start, b), start));
  for (let j = b; j < after.length; j++) out.push(["same", j]);
  return out;
}

function alignedMiddle(before, after, shift) {
  const n = before.length, m = after.length, width = m + 1, length = new Uint16Array((n + 1) * width), out = [];
  for (let i = n - 1; i >= 0; i--) for (let j = m - 1; j >= 0; j--) {
    length[i * width + j] = before[i] === after[j] ? length[(i + 1) * width + j + 1] + 1 : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
  }
  let i = 0, j = 0;
  while (i < n || j < m) {
    if (i < n && j < m && before[i] === after[j]) { out.push(["same", j + shift]); i++; j++; }
    else if (i < n && (j === m || length[(i + 1) * width + j] >= length[i * width + j + 1])) out.push(["del", i++ + shift]);
    else out.push(["ins", j++ + shift]);
  }
  return out;
}

function answerCard(r, before) {
  const parts = before ? aligned(before.tokens, r.tokens) : r.tokens.map((_, i) => ["same", i]);
  const spans = parts.map(([kind, i]) => {
    const text = visible((kind === "del" ? before : r).tokens[i]);
    return kind === "ins" ? el("ins", {class: "t ins"}, ...text) : kind === "del" ? el("del", {class: "t del"}, ...text) : el("span", {}, ...text);
  });
  return el("div", {class: "card", role: "listitem"},
    el("div", {class: "head"}, el("b", {}, `round ${r.round}`), el("span", {}, `reward ${show(r.reward)}`),
      el("button", {type: "button", "aria-label": `open the row of round ${r.round}`, onclick: () => seeRow(r)}, "open")),
    el("div", {class: "tokens"}, ...spans));
}

function follow() {
  const tasks = new Map(recurring()), home = $("follow");
  if (!tasks.size) return;
  const cards = el("div", {class: "cards", role: "list", tabindex: 0, "aria-label": "answers, round after round"});
  const prompt = el("div", {class: "tokens prompt"}), more = el("button", {type: "button"}), task = el("select"), which = el("select");
  let limit = CARDS;
  const list = () => {
    if (!tasks.has(state.follow)) state.follow = "";
    const [name, rounds] = state.follow ? [state.follow, tasks.get(state.follow)] : [...tasks][0];
    task.value = name;
    which.value = state.which;
    const rows = [...rounds].sort(([a], [b]) => a - b).map(([, found]) => pickOne(found, state.which));
    prompt.replaceChildren(...visible(rows[0].prompt));
    cards.replaceChildren(...rows.slice(0, limit).map((r, i) => answerCard(r, rows[i - 1])));
    more.hidden = rows.length <= limit;
    more.textContent = `show more (${rows.length - limit} left)`;
  };
  const on = (node, name) => node.addEventListener("change", () => { state[name] = node.value; limit = CARDS; list(); writeAddress(); });
  options(task, [...tasks].map(([name, rounds]) => [name, `${name} · ${rounds.size} rounds`]), "");
  options(which, Object.entries(WHICH), state.which);
  on(task, "follow");
  on(which, "which");
  more.addEventListener("click", () => { limit += CARDS; list(); });
  home.append(el("h2", {}, "One prompt over rounds"),
    el("p", {class: "note"}, "Each answer is marked against the one before: ", el("ins", {class: "t ins"}, "new tokens"), " are underlined, ", el("del", {class: "t del"}, "those that are gone"), " struck through."),
    el("div", {class: "filters card"}, el("label", {}, "Prompt", task), el("label", {}, "Of each round", which), more), prompt, cards);
  view.follow = list;
  list();
}
