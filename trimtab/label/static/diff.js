// A diff by words. Texts become text nodes, so that nothing in them is HTML.

const CELLS = 4_000_000; // above this many comparisons a diff tells a reader nothing anyway

/** [["same" | "gone" | "new", text], ...] from `before` to `after`. */
export function words(before, after) {
  const a = before.match(/\s+|[^\s]+/g) ?? [], b = after.match(/\s+|[^\s]+/g) ?? [];
  if (a.length * b.length > CELLS) return [["gone", before], ["new", after]];
  const width = b.length + 1;
  const longest = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      longest[i * width + j] = a[i] === b[j]
        ? longest[(i + 1) * width + j + 1] + 1 : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const out = [];
  const add = (kind, text) => { if (out.at(-1)?.[0] === kind) out.at(-1)[1] += text; else out.push([kind, text]); };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { add("same", a[i]); i++; j++; }
    else if (j >= b.length || (i < a.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) add("gone", a[i++]);
    else add("new", b[j++]);
  }
  return out;
}

export function show(before, after) {
  const place = document.createElement("div");
  place.className = "diff";
  for (const [kind, text] of words(before, after)) {
    const part = document.createElement({ same: "span", gone: "del", new: "ins" }[kind]);
    part.textContent = text;
    place.append(part);
  }
  return place;
}
