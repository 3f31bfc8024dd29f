// The page of several runs: one table, and every curve overlaid. Runs that differ in their seed alone share a line style.
function swatch(hue) {
  return svg("svg", {class: "swatch", viewBox: "0 0 34 10", "aria-hidden": "true"}, svg("path", {class: `raw s${hue % HUES}`, d: "M0 5H34"}));
}

function comparison() {
  const {groups, rows} = data.table;
  $("top").append(el("p", {class: "soft"}, "jaxevo"), el("h1", {}, data.name));
  const head = el("tr", {}, el("th", {scope: "col"}, ""), ...groups.map((g, i) => el("th", {scope: "col"}, swatch(i), g.name, el("br"), el("small", {}, g.folders.join(", ")))));
  const body = rows.map(({name, cells}) => el("tr", {}, el("th", {scope: "row"}, name), ...cells.map((c) => el("td", {}, c))));
  $("table").append(el("div", {class: "card scroll", tabindex: 0}, el("table", {}, el("thead", {}, head), el("tbody", {}, ...body))),
    el("p", {class: "note under"}, data.note));
}

comparison();
curves($("curves"), data.runs, {note: `Order of the values: ${data.runs.map((r) => r.name).join(" · ")}.`});
