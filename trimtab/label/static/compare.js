// Two answers: which is better, by keys or buttons.
import { singleKeys, typing } from "./app.js";
import { show as showDiff } from "./diff.js";
import { session } from "./session.js";

const RANKS = { a: [1, 2], b: [2, 1], tie: [1, 1], bad: [1, 1] };
const form = document.getElementById("verdict");
const note = document.getElementById("note");
const diffs = document.getElementById("diffs");
const texts = [...document.querySelectorAll(".answer pre.raw")].map((e) => e.textContent);

function value() {
  const choice = form.choice.value;
  return { ranks: RANKS[choice] ?? [null, null], flags: choice === "bad" ? [["both_bad"], ["both_bad"]] : [[], []], note: note.value };
}
const task = session(value, () => (form.choice.value ? "" : "Say which answer is better first."));

function choose(name) {
  form.choice.value = name;
  mark();
  task.changed();
}

function mark() {
  document.querySelectorAll(".answer").forEach((answer, i) => answer.classList.toggle("chosen", form.choice.value === "ab"[i]));
}

const KEYS = { ArrowLeft: "a", a: "a", 1: "a", ArrowRight: "b", b: "b", 2: "b", "=": "tie", 0: "bad" };
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || typing(event) || !singleKeys()) return;
  const chosen = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (chosen) choose(chosen);
  else if (event.key === "Enter" && !event.target.matches("button, summary, a")) task.submit();
  else if (event.key.toLowerCase() === "v") diffs.open = !diffs.open;
  else if (event.key === "?") document.getElementById("keys").showModal();
  else return;
  event.preventDefault();
});
form.addEventListener("change", () => { mark(); task.changed(); });
form.addEventListener("submit", (event) => event.preventDefault());
note.addEventListener("input", task.changed);
diffs.addEventListener("toggle", () => { if (diffs.open) document.getElementById("diff-list").replaceChildren(showDiff(texts[0], texts[1])); });

if (task.draft) {
  note.value = task.draft.note ?? "";
  const bad = (task.draft.flags ?? []).some((f) => f.includes("both_bad"));
  const found = Object.entries(RANKS).find(([name, ranks]) => (name !== "bad" || bad) && String(ranks) === String(task.draft.ranks));
  if (found) form.choice.value = bad ? "bad" : found[0];
  mark();
}
