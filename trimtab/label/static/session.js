// One task on the screen: active time, drafts that are kept, submitting once, skipping, undoing.
import { post, singleKeys, toast, typing } from "./app.js";

const IDLE = 60_000; // without a key, a click or a scroll for so long, nobody is at work
const root = document.getElementById("task");
const address = `/api/assignments/${root.dataset.assignment}`;
const draft = JSON.parse(root.dataset.draft || "{}");

let active = draft.seconds || 0;
let last = 0; // when the page was asked for: people read before its script is here
let moved = performance.now();
for (const kind of ["keydown", "pointerdown", "pointermove", "scroll", "input"]) {
  addEventListener(kind, () => { tick(); moved = performance.now(); }, { passive: true, capture: true });
}

/** Adds the time since the last tick as far as somebody was at work in it. */
function tick() {
  const now = performance.now();
  if (!document.hidden) active += Math.max(0, Math.min(now, moved + IDLE) - last) / 1000;
  last = now;
}
setInterval(tick, 5000);
document.addEventListener("visibilitychange", () => { last = performance.now(); });

/**
 * value() -> what is on the screen; missing() -> why it cannot be submitted yet, or "".
 * Returns {changed, submit, draft}: call changed() after every change.
 */
export function session(value, missing) {
  const saved = document.getElementById("saved");
  const problem = document.getElementById("problem");
  const button = document.getElementById("submit");
  let waiting, sending = false, dirty = false, done = false;

  async function save() {
    if (sending || !dirty) return;
    tick();
    dirty = false;
    try {
      await post(`${address}/draft`, { value: value(), seconds: active });
      saved.textContent = "Draft kept";
    } catch (error) {
      dirty = true;
      saved.textContent = error.message;
      if (error.again) waiting = setTimeout(save, 5000);
    }
  }

  function changed() {
    if (sending) return;
    dirty = true;
    problem.hidden = true;
    saved.textContent = "";
    clearTimeout(waiting);
    waiting = setTimeout(save, 900);
  }

  /** A way on where this task is not theirs any more: labelled in another tab, or gone to somebody else. */
  function onward() {
    const next = document.createElement("button");
    next.type = "button";
    next.textContent = "Go on to the next task";
    next.addEventListener("click", async () => {
      try {
        const following = await post(`/api/projects/${root.dataset.project}/next`, {});
        done = true;
        location.assign(following.url);
      } catch (error) { toast(error.message); }
    });
    return next;
  }

  function refuse(text) {
    problem.textContent = text;
    problem.hidden = false;
  }

  async function submit() {
    if (sending) return;
    const lacks = missing();
    if (lacks) return refuse(lacks);
    tick();
    sending = true;
    clearTimeout(waiting);
    button.disabled = true;
    const body = { value: value(), seconds: Math.round(active * 10) / 10, key: root.dataset.key };
    for (let turn = 0; ; turn++) { // the key makes sending again safe: the label is kept once
      try {
        const next = await post(`${address}/submit`, body);
        done = true;
        location.assign(next.url);
        return;
      } catch (error) {
        refuse(error.message);
        if (error.status === 409 || error.status === 404) problem.append(" ", onward());
        if (!error.again || turn > 60) break;
        await new Promise((done) => setTimeout(done, Math.min(500 * 2 ** turn, 8000)));
      }
    }
    sending = false;
    button.disabled = false;
  }

  button.addEventListener("click", submit);
  addEventListener("beforeunload", (event) => {
    if (done || !(dirty || sending)) return;
    save();
    event.preventDefault(); // the browser asks whether to leave
  });
  return { changed, submit, draft: draft.value };
}

const undo = document.getElementById("undo");
undo?.addEventListener("click", async () => {
  try {
    const next = await post(`/api/projects/${root.dataset.project}/undo`, {});
    location.assign(next.url);
  } catch (error) { toast(error.message); }
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || typing(event) || !singleKeys()) return;
  const button = { s: document.querySelector("[data-open=skip]"), u: undo }[event.key.toLowerCase()];
  if (!button) return;
  event.preventDefault();
  button.click();
});

document.getElementById("skip-form")?.addEventListener("submit", async (event) => {
  if (event.submitter?.value !== "skip") return;
  const form = event.target;
  const reason = [form.reason.value, form.more.value.trim()].filter(Boolean).join(": ");
  try {
    const next = await post(`${address}/skip`, { reason });
    location.assign(next.url);
  } catch (error) { toast(error.message); }
});
