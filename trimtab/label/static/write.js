// Writing an answer or a prompt: drafts, a preview, examples.
import "./preview.js";
import { session } from "./session.js";

const form = document.getElementById("paper");
const text = document.getElementById("text");
const note = document.getElementById("note");
const style = form.dataset.style;
const examples = document.getElementById("examples");
const at = (id) => document.getElementById(id);

function pairs() {
  return [...(examples?.querySelectorAll(".example") ?? [])]
    .map((e) => ({ query: e.querySelector(".query").value, response: e.querySelector(".response").value }))
    .filter((p) => p.query.trim() || p.response.trim());
}

function value() {
  if (!style) return { text: text.value, note: note.value };
  return { style, text: text.value, examples: pairs(), use_case: at("use-case").value };
}

function missing() {
  if (!text.value.trim()) return "Nothing is written yet.";
  return style === "few_shot" && pairs().length < 2 ? "Write at least two examples, each a query and its response." : "";
}

const task = session(value, missing);

function count() {
  const number = (text.value.match(/\S*[\p{L}\p{N}]\S*/gu) ?? []).length;
  if (at("words")) at("words").textContent = `${number} word${number === 1 ? "" : "s"}`;
}

function example(pair = { query: "", response: "" }) {
  const made = at("example").content.cloneNode(true);
  made.querySelector("legend").textContent = `Example ${examples.children.length + 1}`;
  made.querySelector(".query").value = pair.query;
  made.querySelector(".response").value = pair.response;
  examples.append(made);
}

form.addEventListener("input", () => { count(); task.changed(); });
form.addEventListener("submit", (event) => event.preventDefault());
at("more")?.addEventListener("click", () => { if (examples.children.length < 8) example(); });
addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) task.submit(); });

if (task.draft) {
  text.value = task.draft.text ?? "";
  if (note) note.value = task.draft.note ?? "";
  if (style && task.draft.use_case) at("use-case").value = task.draft.use_case;
}
if (examples) (task.draft?.examples?.length ? task.draft.examples : [undefined, undefined]).forEach((p) => example(p));
count();
