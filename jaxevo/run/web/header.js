// The head of a run's page: its numbers in tiles, what it was asked to do.
const loggedRounds = data.metrics.map((m) => m.round);

function series(key) {
  return data.metrics.filter((m) => isNumber(m[key])).map((m) => [m.round, m[key]]);
}

function tile(label, value, under, was = null) {
  return el("dl", {class: "tile card"}, el("dt", {}, label),
    el("dd", {}, was === null ? null : el("span", {class: "was"}, `${was} → `), value), el("dd", {}, under));
}

function changeTile(label, points, unit) {
  const [first, last] = [points[0], points[points.length - 1]];
  if (points.length < 2) return tile(label, show(last[1]), `${unit} ${last[0]}`);
  return tile(label, show(last[1]), `${signed(last[1] - first[1])} · ${unit} ${first[0]} → ${last[0]}`, show(first[1]));
}

function beforeAfter(evaluation) {  // {before: x, after: y}, x and y numbers or {scorer: number}
  const [before, after] = [evaluation?.before, evaluation?.after];
  if (isNumber(before) && isNumber(after)) return {"": [before, after]};
  const pairs = {};
  for (const scorer of Object.keys(before ?? {})) {
    if (isNumber(before[scorer]) && isNumber(after?.[scorer])) pairs[scorer] = [before[scorer], after[scorer]];
  }
  return pairs;
}

function tiles() {
  const shown = [];
  if (series("reward").length) shown.push(changeTile("Reward", series("reward"), "round"));
  const pairs = beforeAfter(data.config.evaluation);
  for (const [scorer, [a, b]] of Object.entries(pairs)) {
    shown.push(tile(scorer ? `Held out: ${scorer}` : "Held out", show(b), `${signed(b - a)} · before → after`, show(a)));
  }
  for (const key of metricKeys([data]).filter((k) => k.startsWith("eval/") && !(k.slice(5) in pairs))) {
    shown.push(changeTile(`Held out: ${key.slice(5)}`, series(key), "round"));
  }
  if (series("length").length) shown.push(changeTile("Answer length", series("length"), "round"));
  const speed = series("tokens_per_second").map((p) => p[1]).sort((a, b) => a - b);
  if (speed.length) shown.push(tile("Tokens per second", show(speed[speed.length >> 1]), "median of all rounds"));
  const seconds = Object.values(data.config.seconds ?? {}).filter(isNumber);
  shown.push(tile("Rounds", show(data.rounds_logged), seconds.length ? `in ${clock(seconds.reduce((a, b) => a + b))}` : `${loggedRounds[0]} to ${loggedRounds[loggedRounds.length - 1]}`));
  return shown;
}

function factText(value, decimals = 0) {
  if (value !== null && typeof value === "object") return Object.entries(value).map(([k, v]) => `${k} ${factText(v, decimals)}`).join(" · ");
  return isNumber(value) && decimals ? value.toFixed(decimals) : String(value);
}

function header() {
  const {recipe, recipe_repr: full, ...config} = data.config, asked = config.options ?? {};
  const facts = el("dl"), fact = (name, value) => facts.append(el("dt", {}, name), el("dd", {}, value));
  for (const key of ["model", "task", "seed", "control"]) {
    const value = asked[key] ?? config[key];
    if (value !== undefined && value !== "none") fact(key, String(value));
  }
  if (asked.prompts) fact("a round", `${asked.prompts} prompts × ${asked.samples} answers of at most ${asked.max_new_tokens} tokens, temperature ${asked.temperature}`);
  for (const key of ["devices", "versions", "seconds"]) {
    if (key in config) fact(key, Array.isArray(config[key]) ? config[key].join(", ") : factText(config[key], key === "seconds" ? 1 : 0));
  }
  if (recipe !== undefined) {
    const text = pretty(String(full ?? recipe)), title = full ? recipe : "how it learns";
    fact("recipe", el("details", {open: text.length < 400}, el("summary", {}, title), el("pre", {}, text)));
  }
  $("top").append(el("p", {class: "soft"}, "jaxevo run"), el("h1", {}, data.name), el("div", {class: "tiles"}, ...tiles()));
  if (Object.keys(data.config).length) {
    $("top").append(el("div", {class: "facts card"}, facts,
      el("details", {}, el("summary", {}, "All of config.json"), el("pre", {}, JSON.stringify(data.config, null, 2)))));
  }
}
