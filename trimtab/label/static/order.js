// An order with ties, as plain data: tiers best first, what is left out, what is not placed yet. Knows nothing of the page.

export class Order {
  constructor(size) {
    this.size = size;
    this.tiers = []; // [[position, ...], ...]
    this.out = []; // cannot be ranked
  }

  static fromRanks(ranks) {
    const order = new Order(ranks.length);
    const numbers = [...new Set(ranks.filter((r) => r > 0))].sort((a, b) => a - b);
    order.tiers = numbers.map((n) => ranks.flatMap((r, i) => (r === n ? [i] : [])));
    order.out = ranks.flatMap((r, i) => (r === 0 ? [i] : []));
    return order;
  }

  /** 1 for the best; 0 for what cannot be ranked; null for what is not placed. */
  marks() {
    const marks = Array(this.size).fill(null);
    this.tiers.forEach((tier, i) => tier.forEach((p) => { marks[p] = i + 1; }));
    this.out.forEach((p) => { marks[p] = 0; });
    return marks;
  }

  rest() { return this.marks().flatMap((m, i) => (m === null ? [i] : [])); }
  complete() { return this.rest().length === 0 && this.tiers.flat().length >= 2; }

  remove(position) {
    this.tiers = this.tiers.map((tier) => tier.filter((p) => p !== position)).filter((tier) => tier.length);
    this.out = this.out.filter((p) => p !== position);
  }

  /** Puts an answer behind all that are placed, or, tied, beside the last of them. */
  append(position, tied) {
    this.remove(position);
    if (tied && this.tiers.length) this.tiers.at(-1).push(position);
    else this.tiers.push([position]);
  }

  leaveOut(position) { this.remove(position); this.out.push(position); }

  /** Into the tie of the answer `beside`. */
  tie(position, beside) {
    if (position === beside) return;
    this.remove(position);
    const tier = this.tiers.find((t) => t.includes(beside));
    if (tier) tier.push(position); else this.tiers.push([position]);
  }

  /** Alone, before the tier that begins with the answer `before`; at the end without one. */
  insert(position, before) {
    if (position === before) before = this.tiers.find((t) => t.includes(position))?.find((p) => p !== position);
    this.remove(position);
    const at = this.tiers.findIndex((t) => t.includes(before));
    this.tiers.splice(at < 0 ? this.tiers.length : at, 0, [position]);
  }

  /** One step up (-1) or down (1): out of a tie, or into the neighbour's tie. */
  move(position, by) {
    const at = this.tiers.findIndex((t) => t.includes(position));
    if (at < 0) return;
    if (this.tiers[at].length > 1) {
      this.tiers[at] = this.tiers[at].filter((p) => p !== position);
      this.tiers.splice(by < 0 ? at : at + 1, 0, [position]);
    } else if (this.tiers[at + by]) {
      this.tiers[at + by].push(position);
      this.tiers.splice(at, 1);
    }
  }

  undoLast() {
    const tier = this.tiers.at(-1);
    if (!tier) return null;
    const position = tier.pop();
    if (!tier.length) this.tiers.pop();
    return position;
  }

  written(letters = "ABCDEFGHI") { return this.tiers.map((t) => t.map((p) => letters[p]).join(" = ")).join(" > "); }
}
