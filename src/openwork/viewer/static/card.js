// The card: every check with its value, its controls and its verdict. Failed ones are named first and as loudly.

import { count, el, number, svg } from "./dom.js";

export function showCard(root, graph) {
  const { card } = graph.payload;
  if (card === null) {
    root.replaceChildren(
      el(
        "p",
        { class: "banner" },
        "Not verified: this page was written without a card. ",
        el("code", {}, "openwork verify"),
        " makes one.",
      ),
    );
    return;
  }
  const failed = card.checks.filter((check) => !check.passed);
  const head = ["", "check", "value", "control", "bound", "random circuits"].map((name) => el("th", {}, name));
  root.replaceChildren(
    failed.length
      ? el(
          "p",
          { class: "banner" },
          `${failed.length} of ${card.checks.length} checks failed: ${failed.map((check) => check.name).join(", ")}.`,
        )
      : el("p", {}, `All ${card.checks.length} checks passed.`),
    el(
      "div",
      { class: "scroll" },
      el("table", { class: "card" }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, card.checks.map(checkRow))),
    ),
    el(
      "p",
      { class: "quiet" },
      "Controls are random circuits of as many weights of every matrix; for necessity, as many random nodes per site; " +
        "for KL, the model with every node ablated. " +
        "In the last column each tick is one of them, the dot is this circuit. Losses are in nats; a coin gives 0.693.",
    ),
  );
}

function checkRow(check) {
  const verdict = check.passed ? el("strong", { class: "pass" }, "✓ pass") : el("strong", { class: "fail" }, "✗ FAIL");
  const others = Array.isArray(check.detail?.random) ? check.detail.random.filter(Number.isFinite) : [];
  return el(
    "tr",
    { class: check.passed ? "" : "failed" },
    el("td", {}, verdict),
    el(
      "td",
      { class: "what" },
      el("b", {}, check.name),
      el("br"),
      el("span", { class: "quiet" }, check.question),
      check.passed ? null : worst(check.detail?.templates ?? []),
    ),
    el(
      "td",
      { class: "value", "data-label": "value" },
      told(check.value),
      el("span", { class: "unit" }, ` ${check.unit}`),
    ),
    el(
      "td",
      { class: "value", "data-label": "control" },
      told(check.control),
      el("br"),
      el("span", { class: "quiet" }, check.control_name),
    ),
    el("td", { "data-label": "bound" }, check.threshold),
    el("td", {}, others.length ? ticks(check.value, others) : null),
  );
}

// With as many digits as tell a value from its control.
const told = (value) => (Number.isFinite(value) ? value.toFixed(3) : number(value));

// Where a check fails: the template on whose pairs the circuit's loss is greatest, of those that it was asked on.
function worst(templates) {
  if (!templates.length) return null;
  const { circuit, model, pairs, template } = templates[0];
  return [
    el(
      "p",
      { class: "quiet" },
      `Worst of ${count(templates.length, "template")}: ${number(circuit)} nats on ${count(pairs, "pair")}, ` +
        `where the whole model has ${number(model)}.`,
    ),
    el("pre", {}, template),
  ];
}

// The check's value among those of the random circuits, on one line from 0.
function ticks(value, others) {
  const width = 170;
  const most = Math.max(value ?? 0, ...others, 1e-9);
  const x = (one) => 5 + ((width - 10) * Math.max(0, one)) / most;
  const label = `${number(value)} among random circuits from ${number(Math.min(...others))} to ${number(Math.max(...others))}`;
  return svg(
    "svg",
    { class: "ticks", width, height: 34, viewBox: `0 0 ${width} 34`, role: "img", "aria-label": label },
    svg("line", { x1: 5, x2: width - 5, y1: 12, y2: 12, class: "axis" }),
    others.map((one) => svg("line", { x1: x(one), x2: x(one), y1: 6, y2: 18, class: "tick" })),
    Number.isFinite(value) ? svg("circle", { cx: x(value), cy: 12, r: 4.5, class: "here" }) : null,
    svg("text", { x: 5, y: 31 }, "0"),
    svg("text", { x: width - 5, y: 31, "text-anchor": "end" }, number(most)),
  );
}
