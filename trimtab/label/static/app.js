// What every page does: calls to the API, dialogs, the raw view, buttons that post, one place for messages.

let csrf = document.querySelector('meta[name="csrf"]').content;

const send = (url, body) => fetch(url, {
  method: "POST", headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf }, body: JSON.stringify(body ?? {}),
});

/** Takes the form token of whoever is logged in now; whether it is another one: they logged out, and in again in another tab. */
async function renewed() {
  const [, token] = (await (await fetch("/account")).text()).match(/<meta name="csrf" content="([^"]+)">/) ?? [];
  if (!token || token === csrf) return false;
  csrf = token;
  for (const field of document.querySelectorAll('input[name="csrf"]')) field.value = token;
  return true;
}

/** POSTs JSON; the answer's JSON, or an Error whose message is one sentence. `error.again` says that sending again may help. */
export async function post(url, body) {
  let response;
  try {
    response = await send(url, body);
    if (response.status === 403 && await renewed()) response = await send(url, body);
  } catch {
    throw Object.assign(new Error("No connection. What you wrote is kept here; it is sent again."), { again: true });
  }
  const answer = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
  if (response.ok) return answer;
  if (response.status === 401) answer.error = "You are logged out. Log in again in another tab, then submit once more.";
  throw Object.assign(new Error(answer.error), { again: response.status === 503, status: response.status });
}

let hiding;
/** A short message at the foot of the page, read out by screen readers. */
export function toast(text) {
  const place = document.getElementById("toast");
  place.textContent = text;
  place.classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => place.classList.remove("shown"), 3500);
}

/** Whether somebody is typing, so that single keys are letters. */
export function typing(event) {
  const at = event.target;
  return at.matches("textarea, select, input:not([type=radio]):not([type=checkbox])") || at.isContentEditable;
}

export function singleKeys() {
  return localStorage.getItem("single-keys") !== "off";
}

for (const button of document.querySelectorAll("[data-open]")) {
  button.addEventListener("click", () => document.getElementById(button.dataset.open).showModal());
}
// Back from a dialog, keys are for the task again: on the button that opened it, Enter would open it once more.
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("close", () => { if (singleKeys()) document.getElementById("main").focus({ preventScroll: true }); });
}

for (const button of document.querySelectorAll(".raw-switch")) {
  button.addEventListener("click", () => {
    const place = button.closest(".has-raw");
    const raw = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", raw);
    for (const text of place.querySelectorAll(".text")) text.hidden = raw;
    for (const text of place.querySelectorAll("pre.raw")) text.hidden = !raw;
  });
}

for (const button of document.querySelectorAll("[data-post]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const answer = await post(button.dataset.post, {});
      if ("go" in button.dataset) location.assign(answer.url);
    } catch (error) {
      toast(error.message);
      button.disabled = false;
    }
  });
}

const switcher = document.getElementById("keys-on");
if (switcher) {
  switcher.checked = singleKeys();
  switcher.addEventListener("change", () => localStorage.setItem("single-keys", switcher.checked ? "on" : "off"));
}

const tab = document.querySelector(".tabs [aria-current]");
if (tab) tab.parentElement.scrollLeft = tab.offsetLeft - (tab.parentElement.clientWidth - tab.offsetWidth) / 2;
if (location.hash === "#questions") document.getElementById("questions")?.showModal?.();
