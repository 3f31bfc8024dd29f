// The rollout browser: filters, the list of rows, the chosen row beside it.
const view = {limit: 200, marks: true, chosen: null, found: [], controls: {}};

function chooseRound(round) {
  if (!shownRounds.length) return;
  state.round = round === ALL ? ALL : String(nearestRound(Number(round)));
  const rows = records.filter((r) => state.round === ALL || String(r.round) === state.round);
  const groups = unique(rows.map((r) => r.group)).sort((a, b) => a - b);
  if (state.round === ALL || !groups.some((g) => String(g) === state.group)) state.group = "";
  view.controls.round.value = state.round;
  view.back.disabled = state.round === String(shownRounds[0]);
  view.next.disabled = state.round === String(shownRounds[shownRounds.length - 1]);
  const names = state.round === ALL ? [] : groups.map((g) => { const r = rows.find((row) => row.group === g); return [g, `${nth.get(groupKey(r))} · ${r.task}`]; });
  options(view.controls.group, [["", names.length ? `all ${groups.length} groups` : "all groups"], ...names], state.group);
  listRows();
}
function stepRound(by) {
  const at = state.round === ALL ? (by > 0 ? -1 : shownRounds.length) : shownRounds.indexOf(Number(state.round));
  chooseRound(shownRounds[Math.min(shownRounds.length - 1, Math.max(0, at + by))]);
  writeAddress();
}
function seeRow(r) {  // whatever hides it
  Object.assign(state, {group: "", role: "", finish: "", learnt: "", text: "", low: "", high: "", sort: "group", row: String(r.row)});
  view.limit = Infinity;
  view.chosen = r;
  showState();
  chooseRound(r.round);
  writeAddress();
  $("rollouts").scrollIntoView();
}
function seeRound(round) {
  if (!shownRounds.length) return;
  state.row = "";
  chooseRound(round);
  writeAddress();
  $("rollouts").scrollIntoView({behavior: "smooth"});
  view.list.focus({preventScroll: true});
}

function groupHead(r, rows) {
  const rewards = rows.map((m) => m.reward).filter(isNumber), where = state.round === ALL ? `round ${r.round} · ` : "";
  return el("div", {class: "group", role: "presentation"}, `${where}${groupName(r)} · ${r.task} · ${rows.length} ${rows.length === 1 ? "row" : "rows"}${rewards.length ? ` · mean ${show(mean(rewards))}` : ""}`);
}

function rowNode(r, i) {
  const what = learnt(r), place = state.sort === "group" ? null : `round ${r.round} · ${groupName(r)}`;
  const meta = [place, r.role, `${r.sampled_tokens ?? r.ids.length} tokens`, r.finish, what === "trained" ? null : what].filter(Boolean).join(" · ");
  return el("div", {class: "row", role: "option", id: `row${i}`, onclick: () => choose(i)},
    el("span", {class: "reward"}, show(r.reward)), el("span", {class: "text"}, r.answer.slice(0, 120).replace(/\s+/g, " ").trim() || "(empty)"), el("span", {class: "meta"}, meta));
}

function listRows() {
  const found = sorted(records.filter(matches)), mates = new Map();
  for (const r of found) mates.set(groupKey(r), [...(mates.get(groupKey(r)) ?? []), r]);
  view.found = found.slice(0, view.limit);
  const nodes = [];
  view.found.forEach((r, i) => {
    if (state.sort === "group" && (i === 0 || groupKey(view.found[i - 1]) !== groupKey(r))) nodes.push(groupHead(r, mates.get(groupKey(r))));
    nodes.push(rowNode(r, i));
  });
  if (!nodes.length) nodes.push(el("p", {class: "empty"}, "No row matches these filters."));
  if (found.length > view.limit) nodes.push(el("button", {class: "more", type: "button", onclick: () => { view.limit += 200; listRows(); }}, `show more (${show(found.length - view.limit)} left)`));
  view.list.replaceChildren(...nodes);
  const all = state.round === ALL ? records.length : records.filter((r) => String(r.round) === state.round).length;
  view.count.textContent = `${show(found.length)} of ${show(all)} rows`;
  const asked = (r) => state.row === "" ? r === view.chosen : String(r.row) === state.row && (state.round !== ALL || r === view.chosen);
  choose(Math.max(0, view.found.findIndex(asked)), false);
}

function choose(index, byUser = true) {
  view.chosen = view.found[index] ?? null;
  for (const row of view.list.querySelectorAll(".row")) row.setAttribute("aria-selected", row.id === `row${index}`);
  if (view.chosen) view.list.setAttribute("aria-activedescendant", `row${index}`);
  else view.list.removeAttribute("aria-activedescendant");
  if (view.chosen && byUser) {
    $(`row${index}`).scrollIntoView({block: "nearest"});
    state.row = String(view.chosen.row);
    writeAddress();
  }
  detail();
}

function listKey(event) {
  const at = view.found.indexOf(view.chosen), end = view.found.length - 1;
  const to = {ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: end, PageDown: at + 10, PageUp: at - 10}[event.key];
  if (to === undefined || event.target !== view.list || end < 0) return;
  event.preventDefault();
  choose(Math.min(end, Math.max(0, to)));
}

// -- controls
function control(name, node, event = "change") {
  node.addEventListener(event, () => {
    state[name] = node.value;
    view.limit = 200;
    if (name === "round") { state.row = ""; chooseRound(node.value); } else listRows();
    writeAddress();
  });
  return view.controls[name] = node;
}
const number = (name, placeholder, says) => control(name, el("input", {type: "number", step: "any", placeholder, "aria-label": says}), "input");
function menu(name, all, values) {
  const node = control(name, el("select"));
  options(node, [["", all], ...values.map((v) => [v, v])], "");
  return node;
}
function showState() { for (const [name, node] of Object.entries(view.controls)) node.value = state[name]; }

function filters() {
  const label = (text, node, kind = "") => el("label", {class: kind}, text, node), pair = (...nodes) => el("span", {class: "pair"}, ...nodes);
  const round = control("round", el("select")), sizes = new Map();
  for (const r of records) sizes.set(r.round, (sizes.get(r.round) ?? 0) + 1);
  options(round, [[ALL, "all rounds"], ...shownRounds.map((r) => [r, `${r} · ${sizes.get(r)} rows`])], "");
  view.back = el("button", {type: "button", "aria-label": "previous round", onclick: () => stepRound(-1)}, "‹");
  view.next = el("button", {type: "button", "aria-label": "next round", onclick: () => stepRound(1)}, "›");
  const some = (name, all, key) => { const values = unique(records.map(key)).sort(); return values.length > 1 ? menu(name, all, values) : null; };
  const role = some("role", "all roles", (r) => r.role), finish = some("finish", "any", (r) => String(r.finish)), taught = some("learnt", "all", learnt);
  const sort = control("sort", el("select"));
  options(sort, Object.entries(ORDERS).map(([value, [text]]) => [value, text]), state.sort);
  const text = control("text", el("input", {type: "search", placeholder: "prompt, answer, feedback or task"}), "input");
  view.count = el("output", {class: "soft"});
  return el("div", {class: "filters card"},
    label("Round", pair(view.back, round, view.next)), label("Group", control("group", el("select"))), role && label("Role", role),
    el("div", {class: "field"}, "Reward", pair(number("low", "min", "lowest reward"), number("high", "max", "highest reward"))),
    finish && label("Finish", finish), taught && label("Learnt from", taught), label("Sort by", sort), label("Search", text, "wide"), view.count);
}

function sizeNote() {
  const {rows, rounds_shown: whole, rounds: all} = data.rollouts;
  if (records.length === rows) return `All ${show(rows)} rows of ${show(all)} rounds.`;
  return `To keep this page small it holds ${show(records.length)} of ${show(rows)} rows: ${show(whole)} of ${show(all)} rounds whole (the first, the last and some between), and of prompts that come back a row of their other rounds. All rows are in rollouts.jsonl.`;
}

function rollouts() {
  const home = $("rollouts"), all = data.rollouts.rounds;
  home.append(el("h2", {}, "Rollouts"));
  if (!records.length) { home.append(el("p", {class: "note"}, all ? "The rollouts are larger than this page's budget; see rollouts.jsonl." : "This run has logged no rollouts.")); return; }
  home.append(el("p", {class: "note"}, sizeNote()));
  view.list = el("div", {class: "rows card", role: "listbox", tabindex: 0, "aria-label": "Rows", onkeydown: listKey});
  view.detail = el("div", {class: "detail card"});
  home.append(filters(), el("div", {class: "viewer"}, view.list, view.detail));
}
