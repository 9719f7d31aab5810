// Rating K answers one by one, then ordering them: by keys, by buttons, by dragging. The page reads out what changed.
import { singleKeys, toast, typing } from "./app.js";
import { show as showDiff } from "./diff.js";
import { dragging } from "./drag.js";
import { Order } from "./order.js";
import { session } from "./session.js";

const LETTERS = "ABCDEFGHI";
const root = document.getElementById("task");
const answers = [...document.querySelectorAll(".answer")];
const texts = answers.map((a) => a.querySelector("pre.raw").textContent);
const rates = root.dataset.rate === "yes";
const at = (id) => document.getElementById(id);

let order = new Order(answers.length);
let step = rates ? "rate" : "order";
let current = 0; // the answer that digits rate
let marked = null; // the chip that arrows move
let pending = ""; // "=" or "0" was pressed: what the next answer becomes

const rating = (p) => Number(document.querySelector(`input[name="rating-${p}"]:checked`)?.value) || null;
const ratings = () => answers.map((_, p) => rating(p));
const flags = (p) => [...document.querySelectorAll(`input[name="flag-${p}"]:checked`)].map((box) => box.value);
const ordinal = (n) => n + ({ 1: "st", 2: "nd", 3: "rd" }[n] ?? "th");

function value() {
  const marks = order.marks();
  return {
    ranks: marks.map((m) => m || null), out: order.out, ratings: ratings(), flags: answers.map((_, p) => flags(p)), note: at("note").value,
  };
}

function missing() {
  const unrated = rates ? ratings().indexOf(null) : -1;
  if (unrated >= 0) { mark(unrated); return `Answer ${LETTERS[unrated]} has no rating yet.`; }
  const rest = order.rest();
  if (rest.length) return `Not placed yet: ${rest.map((p) => LETTERS[p]).join(", ")}.`;
  return order.complete() ? "" : "Order at least two answers, or skip the task.";
}

const task = session(value, missing);

// ---- the page from the data

function chip(position) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chip";
  button.dataset.position = position;
  button.textContent = LETTERS[position];
  return button;
}

function row(position, tier) {
  const item = document.createElement("span");
  item.className = "placed" + (position === marked ? " marked" : "");
  item.dataset.drop = "tie";
  item.dataset.beside = position;
  const button = chip(position);
  const tied = tier.length > 1 ? `, tied with ${tier.filter((p) => p !== position).map((p) => LETTERS[p]).join(" and ")}` : "";
  button.setAttribute("aria-label", `Answer ${LETTERS[position]}, ${ordinal(order.marks()[position])}${tied}. Arrow keys move it, Delete takes it out.`);
  const words = document.createElement("span");
  words.className = "start";
  words.textContent = texts[position].slice(0, 90);
  item.append(button, words);
  return item;
}

function gap(before) {
  const line = document.createElement("li");
  line.className = "gap";
  line.dataset.drop = "insert";
  if (before !== undefined) line.dataset.before = before;
  line.setAttribute("aria-hidden", "true");
  return line;
}

function draw() {
  const focused = document.activeElement?.closest?.("#order .chip")?.dataset.position;
  const tiers = at("tiers");
  tiers.replaceChildren();
  order.tiers.forEach((tier, i) => {
    const item = document.createElement("li");
    item.className = "tier";
    const number = document.createElement("span");
    number.className = "number";
    number.textContent = i + 1;
    number.setAttribute("aria-hidden", "true");
    const members = document.createElement("span");
    members.className = "members";
    members.append(...tier.map((p) => row(p, tier)));
    item.append(number, members);
    tiers.append(gap(tier[0]), item);
  });
  tiers.append(gap());
  const rest = order.rest();
  at("tray").replaceChildren(...rest.map((p) => {
    const button = chip(p);
    button.setAttribute("aria-label", `Answer ${LETTERS[p]}: place it ${ordinal(order.tiers.length + 1)}`);
    return button;
  }));
  at("tray").closest(".tray-box").hidden = !rest.length;
  at("tie-next").setAttribute("aria-pressed", pending === "=");
  at("tie-next").disabled = !order.tiers.length;
  at("out-next").setAttribute("aria-pressed", pending === "0");
  at("out").replaceChildren(...order.out.map((p) => {
    const button = chip(p);
    button.setAttribute("aria-label", `Answer ${LETTERS[p]} cannot be ranked: place it after all`);
    return button;
  }));
  at("out-box").hidden = !order.out.length && pending !== "0" && !document.body.classList.contains("dragging");
  const marks = order.marks();
  answers.forEach((answer, p) => {
    answer.classList.toggle("current", step === "rate" && p === current);
    answer.classList.toggle("rated", rating(p) !== null);
    const tied = marks[p] && order.tiers[marks[p] - 1].length > 1;
    answer.querySelector(".place").textContent = marks[p] === 0 ? "not ranked" : marks[p] ? ordinal(marks[p]) + (tied ? " =" : "") : "";
    const raised = flags(p).length, badge = answer.querySelector(".raised");
    if (badge) badge.textContent = raised ? String(raised) : "";
    const put = answer.querySelector(".put");
    put.textContent = marks[p] === null ? `Place ${ordinal(order.tiers.length + 1)}` : "Take out";
    put.setAttribute("aria-label", `${put.textContent}: answer ${LETTERS[p]}`);
  });
  const written = order.written();
  at("written").textContent = written;
  const rated = ratings().filter(Boolean).length;
  at("dock-text").textContent = rates && rated < answers.length ? `${rated} of ${answers.length} rated` : written || "Place the best one first";
  at("step").textContent = stepText(rated, rest.length);
  root.dataset.step = step;
  if (at("diffs").open) drawDiffs();
  if (focused !== undefined) at("order").querySelector(`.chip[data-position="${focused}"]`)?.focus();
}

function stepText(rated, rest) {
  if (step === "rate") return `Step 1: rate each answer alone. ${rated} of ${answers.length} rated.`;
  if (pending === "=") return "Which answer ties with the last one?";
  if (pending === "0") return "Which answer cannot be ranked?";
  if (rest) return `Step 2: which is ${order.tiers.length ? "next" : "best"}? Choose its letter.`;
  return "All placed. Enter submits.";
}

function drawDiffs() {
  const flat = order.tiers.flat();
  at("diff-list").replaceChildren(...flat.slice(1).flatMap((p, i) => {
    const title = document.createElement("h3");
    title.textContent = `${LETTERS[flat[i]]} to ${LETTERS[p]}`;
    return [title, showDiff(texts[flat[i]], texts[p])];
  }));
  if (flat.length < 2) at("diff-list").textContent = "Place two answers first.";
}

// ---- what people do

function mark(position, scroll = true) {
  current = (position + answers.length) % answers.length;
  draw();
  if (scroll) answers[current].scrollIntoView({ block: "nearest" });
}

function go(to) {
  step = to;
  pending = "";
  draw();
}

function rate(position, number) {
  const input = document.querySelector(`input[name="rating-${position}"][value="${number}"]`);
  if (!input) return;
  input.checked = true;
  task.changed();
  const next = ratings().findIndex((r, p) => r === null && p > position);
  const first = ratings().indexOf(null);
  if (first < 0) { go("order"); at("order").scrollIntoView({ block: "nearest" }); } else mark(next >= 0 ? next : first);
}

function place(position) {
  if (position >= answers.length) return;
  if (pending === "0") order.leaveOut(position);
  else order.append(position, pending === "=");
  pending = "";
  marked = position;
  step = "order";
  changed();
}

function changed() {
  draw();
  task.changed();
}

/** The next answer ties with the last one ("="), or cannot be ranked ("0"); the same again: neither. */
function wait(kind) {
  pending = pending === kind ? "" : kind;
  step = "order";
  draw();
}

function byRating() {
  const given = ratings();
  if (given.includes(null)) { toast("Rate every answer first."); return; }
  const out = order.out;
  order = Order.fromRanks(given.map((r, p) => (out.includes(p) ? 0 : 8 - r)));
  step = "order";
  changed();
}

function takeOut(position) {
  order.remove(position);
  if (marked === position) marked = null;
  changed();
}

function move(by) {
  if (marked === null || order.marks()[marked] === null) marked = order.tiers.at(-1)?.[0] ?? null;
  if (marked === null) return;
  order.move(marked, by);
  changed();
}

// ---- keys

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const key = event.key;
  const onChip = event.target.closest?.("#order .placed .chip");
  if (onChip && ["ArrowUp", "ArrowDown", "Delete"].includes(key)) {
    event.preventDefault();
    marked = Number(onChip.dataset.position);
    if (key === "Delete") takeOut(marked); else move(key === "ArrowUp" ? -1 : 1);
    return;
  }
  if (typing(event)) { if (key === "Escape") event.target.blur(); return; }
  if (key === "Escape") {
    const open = event.target.closest?.("details[open]");
    if (open) { open.open = false; (open.closest(".answer") ?? open.querySelector("summary")).focus({ preventScroll: true }); } else go(rates ? "rate" : "order");
    return;
  }
  if (!singleKeys() || (key === "Enter" && event.target.closest?.(".flags"))) return;
  if (key === "?") { at("keys").showModal(); return; }
  if (key === "Enter") {
    if (event.target.matches("button, summary, a")) return;
    event.preventDefault();
    if (step === "rate" && ratings().includes(null)) go("order"); else task.submit();
    return;
  }
  const handled = step === "rate" ? rateKey(key) : orderKey(key);
  if (handled) event.preventDefault();
});

function rateKey(key) {
  if (/^[1-7]$/.test(key)) rate(current, Number(key));
  else if (["ArrowRight", "ArrowDown"].includes(key)) mark(current + 1);
  else if (["ArrowLeft", "ArrowUp"].includes(key)) mark(current - 1);
  else if (key.toLowerCase() === "f") {
    const box = answers[current].querySelector(".flags");
    if (box) { box.open = true; box.querySelector("input").focus(); }
  } else if (key.toLowerCase() === "o") go("order");
  else return false;
  return true;
}

function orderKey(key) {
  const letter = LETTERS.indexOf(key.toUpperCase());
  const digit = /^[1-9]$/.test(key) ? Number(key) - 1 : -1;
  if (key.length === 1 && letter >= 0 && letter < answers.length) place(letter);
  else if (digit >= 0 && digit < answers.length) place(digit);
  else if (key === "=" || key === "0") wait(key);
  else if (key === "Backspace") { const gone = order.undoLast(); if (gone !== null) { marked = null; changed(); } }
  else if (key === "ArrowUp") move(-1);
  else if (key === "ArrowDown") move(1);
  else if (key.toLowerCase() === "r") byRating();
  else if (key.toLowerCase() === "v") at("diffs").open = !at("diffs").open;
  else if (key.toLowerCase() === "o") go("order");
  else return false;
  return true;
}

// ---- mouse and touch

root.addEventListener("click", (event) => {
  const put = event.target.closest(".put");
  const waiting = event.target.closest("#tray .chip, #out .chip, .answer .chip");
  const placed = event.target.closest(".placed .chip");
  if (put) { const p = Number(put.dataset.put); if (order.marks()[p] === null) place(p); else takeOut(p); }
  else if (placed) { marked = Number(placed.dataset.position); draw(); placed.focus(); }
  else if (waiting) { const p = Number(waiting.dataset.position); if (order.marks()[p] === null || order.out.includes(p)) place(p); }
});

dragging(root, (position, place) => {
  if (place.dataset.drop === "tie") order.tie(position, Number(place.dataset.beside));
  else if (place.dataset.drop === "insert") order.insert(position, place.dataset.before === undefined ? undefined : Number(place.dataset.before));
  else if (place.dataset.drop === "out") order.leaveOut(position);
  else order.remove(position);
  marked = position;
  step = "order";
  changed();
});

root.addEventListener("change", (event) => {
  const rated = event.target.name?.match(/^rating-(\d+)$/);
  if (rated) { current = Number(rated[1]); if (!ratings().includes(null) && step === "rate") step = "order"; }
  changed();
});
at("note").addEventListener("input", task.changed);
at("by-rating")?.addEventListener("click", byRating);
at("tie-next").addEventListener("click", () => wait("="));
at("out-next").addEventListener("click", () => wait("0"));
at("clear").addEventListener("click", () => { order = new Order(answers.length); marked = null; changed(); });
at("diffs").addEventListener("toggle", draw);
at("tray").dataset.drop = "rest";
at("out").dataset.drop = "out";

// ---- what was there before

if (task.draft) {
  const before = task.draft;
  (before.ratings ?? []).forEach((r, p) => { const i = document.querySelector(`input[name="rating-${p}"][value="${r}"]`); if (i) i.checked = true; });
  (before.flags ?? []).forEach((names, p) => names.forEach((name) => {
    const box = [...document.querySelectorAll(`input[name="flag-${p}"]`)].find((b) => b.value === name);
    if (box) box.checked = true;
  }));
  at("note").value = before.note ?? "";
  const full = (before.ranks ?? []).some((r) => r);
  const out = before.out ?? (full ? before.ranks.flatMap((r, p) => (r ? [] : [p])) : []);
  order = Order.fromRanks((before.ranks ?? answers.map(() => null)).map((r, p) => (out.includes(p) ? 0 : r ?? -1)));
  if (!ratings().includes(null)) step = "order";
  current = Math.max(0, ratings().indexOf(null));
}
draw();
