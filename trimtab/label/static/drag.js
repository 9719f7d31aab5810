// Dragging chips by mouse, pen or finger. The page says where they may fall; keys do the same without it.

const FAR = 6; // pixels before a press becomes a drag

/** `chip` elements carry data-position; places carry data-drop. onDrop(position, place) is called once, on a place. */
export function dragging(root, onDrop) {
  let chip, ghost, from, over;

  root.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    chip = event.target.closest(".chip[data-position]");
    from = chip && { x: event.clientX, y: event.clientY };
  });
  addEventListener("pointermove", (event) => {
    if (!from) return;
    if (!ghost) {
      if (Math.hypot(event.clientX - from.x, event.clientY - from.y) < FAR) return;
      ghost = chip.cloneNode(true);
      ghost.classList.add("ghost");
      document.body.append(ghost);
      document.body.classList.add("dragging");
      chip.setPointerCapture?.(event.pointerId);
    }
    event.preventDefault();
    // through the style object, which a content policy without inline styles allows
    ghost.style.setProperty("transform", `translate(${event.clientX}px, ${event.clientY}px) translate(-50%, -50%)`);
    const found = document.elementsFromPoint(event.clientX, event.clientY).find((e) => e.dataset && "drop" in e.dataset);
    if (found !== over) {
      over?.classList.remove("over");
      found?.classList.add("over");
      over = found;
    }
  }, { passive: false });
  const end = (fell) => {
    if (ghost) {
      ghost.remove();
      over?.classList.remove("over");
      document.body.classList.remove("dragging");
      const swallow = (event) => { event.stopPropagation(); event.preventDefault(); };
      addEventListener("click", swallow, { capture: true, once: true });
      setTimeout(() => removeEventListener("click", swallow, { capture: true }), 0);
      if (fell && over) onDrop(Number(chip.dataset.position), over);
    }
    chip = ghost = from = over = undefined;
  };
  addEventListener("pointerup", () => end(true));
  addEventListener("pointercancel", () => end(false));
}
