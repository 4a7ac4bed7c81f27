// What the marks of the drawing mean, and the switches that thin it out.

import { count, el, svg } from "./dom.js";

export function showLegend(root, graph) {
  const { embedding, unembedding } = graph.payload;
  root.replaceChildren(
    item("edge positive", "positive weight"),
    item("edge negative", "negative weight"),
    item("thread", `${count(graph.threads.length, "residual channel")}, carried without a weight, not counted`),
    item(
      "weight positive",
      `${embedding.length} embedding and ${unembedding.length} unembedding weights, counted apart`,
    ),
  );
}

function item(kind, text) {
  const line = svg(
    "svg",
    { class: "drawing", width: 30, height: 10, "aria-hidden": "true" },
    svg("g", { class: kind }, svg("path", { d: "M1 5H29", "stroke-width": kind.startsWith("edge") ? 3 : 1.2 })),
  );
  return el("span", {}, line, text);
}

// Switches in `root` that hide kinds of lines: their classes go on `drawing`. `save` gets a click on the button.
export function showOptions(root, drawing, save) {
  const toggle = (text, kind) => {
    const box = el("input", {
      type: "checkbox",
      checked: "",
      onchange: () => drawing.classList.toggle(kind, !box.checked),
    });
    return el("label", {}, box, ` ${text}`);
  };
  root.replaceChildren(
    toggle("threads", "no-threads"),
    toggle("token weights", "no-weights"),
    el("button", { onclick: save }, "Save as SVG"),
  );
}
