// The page of one run; the last of the scripts.
function showAddress() {
  const asked = readAddress();
  if (records.length) {
    showState();
    chooseRound(state.round || shownRounds[shownRounds.length - 1]);
    view.follow?.();
  }
  if (asked && records.length) $(state.follow && !state.round ? "follow" : "rollouts").scrollIntoView();
}

header();
const thinned = data.metrics.length < data.rounds_logged ? `The page holds ${show(data.metrics.length)} of ${show(data.rounds_logged)} rounds; all are in metrics.jsonl.` : "";
curves($("curves"), [data], {note: thinned, seen: records.length ? seeRound : null});
rollouts();
follow();
addEventListener("scroll", () => { const on = document.querySelector(".t.on"); if (on) tip(on); }, {passive: true, capture: true});
addEventListener("hashchange", showAddress);
showAddress();
