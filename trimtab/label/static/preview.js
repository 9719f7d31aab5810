// Markdown as it will be read, in the place of the text area that it is written in.
import { post, toast } from "./app.js";

for (const button of document.querySelectorAll("[data-preview-switch]")) {
  const shown = document.getElementById(button.dataset.previewSwitch);
  const text = document.querySelector(`[data-preview="${shown.id}"]`);
  button.addEventListener("click", async () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    try {
      if (on) shown.innerHTML = (await post("/api/preview", { text: text.value })).html; // sanitised by the server
    } catch (error) { toast(error.message); return; }
    button.setAttribute("aria-pressed", on);
    shown.hidden = !on;
    text.hidden = on;
  });
}
