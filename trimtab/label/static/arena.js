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
    battle = answer.battle;
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
  bout.querySelector("[data-choice]").focus({ preventScroll: true });
}

async function vote(bout, number, button) {
  const votes = bout.querySelector(".votes");
  votes.disabled = true; // dead from now on
  try {
    const answer = await post(`${base}/vote`, { battle: number, choice: button.dataset.choice });
    button.classList.add("primary");
    bout.querySelectorAll(".who").forEach((place, i) => { place.textContent = answer.names[i]; });
    const chosen = { a: 0, b: 1 }[button.dataset.choice];
    if (chosen !== undefined) bout.querySelectorAll(".answer")[chosen].classList.add("chosen");
    form.hidden = false;
    text.focus();
  } catch (error) {
    if (error.again) votes.disabled = false;
    fail(error);
  }
}

form?.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
text?.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(); });
document.getElementById("new")?.addEventListener("click", () => { battle = null; turns.replaceChildren(); form.hidden = false; text.focus(); });
