// Two hidden models side by side: ask, read, vote once, then their names.
import { post } from "./app.js";

const turns = document.getElementById("turns");
const form = document.getElementById("say");
const text = document.getElementById("text");
const problem = document.getElementById("problem");
const base = `/api/projects/${turns?.dataset.project}/arena`;
let battle = null, waiting = false;

function fail(error) {
  problem.textContent = error.message;
  problem.hidden = false;
}

async function ask() {
  if (waiting || !text.value.trim()) return;
  waiting = true;
  problem.hidden = true;
  form.querySelector("button").disabled = true;
  const said = text.value;
  try {
    const answer = await post(`${base}/ask`, { text: said, battle });
    keep(answer.battle);
    add(said, answer);
    text.value = "";
    form.hidden = true; // until the vote
    document.getElementById("new").hidden = false;
  } catch (error) { fail(error); }
  waiting = false;
  form.querySelector("button").disabled = false;
}

function add(said, answer) {
  const made = document.getElementById("turn").content.cloneNode(true);
  const bout = made.querySelector(".bout");
  bout.querySelector(".you").textContent = said;
  bout.querySelectorAll(".text").forEach((place, i) => { place.innerHTML = answer.html[i]; }); // sanitised by the server
  const number = answer.battle;
  for (const button of bout.querySelectorAll("[data-choice]")) button.addEventListener("click", () => vote(bout, number, button));
  turns.append(made);
  bout.scrollIntoView({ block: "start" });
  bout.focus({ preventScroll: true }); // not a button: who presses Enter has not voted
  return bout;
}

/** The conversation's last turn stands in the address, so that a reload finds it again. */
function keep(number) {
  battle = number;
  history.replaceState(null, "", number ? `?battle=${number}` : location.pathname);
}

/** After the vote: the names, and which answer the conversation goes on from. */
function told(bout, choice, names) {
  const onward = choice === "b" ? 1 : 0;
  bout.querySelector(".votes").disabled = true;
  bout.querySelector(`[data-choice="${choice}"]`).classList.add("primary");
  bout.querySelectorAll(".who").forEach((place, i) => { place.textContent = names[i]; });
  if (choice === "a" || choice === "b") bout.querySelectorAll(".answer")[onward].classList.add("chosen");
  const said = bout.querySelector(".onward");
  said.textContent = `What you say next goes on from answer ${"AB"[onward]}.`;
  said.hidden = false;
}

async function vote(bout, number, button) {
  const votes = bout.querySelector(".votes");
  votes.disabled = true; // dead from now on
  try {
    const answer = await post(`${base}/vote`, { battle: number, choice: button.dataset.choice });
    told(bout, button.dataset.choice, answer.names);
    form.hidden = false;
    text.focus();
  } catch (error) {
    if (error.again) votes.disabled = false;
    fail(error);
  }
}

form?.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
text?.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(); });
document.getElementById("new")?.addEventListener("click", () => { keep(null); turns.replaceChildren(); form.hidden = false; text.focus(); });

const before = JSON.parse(turns?.dataset.last ?? "null");
if (before) {
  battle = before.battle;
  const bout = add(before.said, before);
  document.getElementById("new").hidden = false;
  if (before.choice) told(bout, before.choice, before.names);
  else form.hidden = true; // until the vote
}
