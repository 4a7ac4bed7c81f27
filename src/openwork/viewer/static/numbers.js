// Every number of the circuit file, and what the other searches reached.

import { el, number } from "./dom.js";

export function showNumbers(root, graph) {
  const { circuit, embedding, unembedding, n_positions: positions } = graph.payload;
  const unlinked = graph.nodes.filter((node) => !node.incoming.length && !node.outgoing.length && !node.thread).length;
  const rows = [
    ...Object.entries(circuit.losses).map(([name, value]) => [
      `loss, ${name.replaceAll("_", " ")}`,
      number(value),
      "nats",
    ]),
    ["target", number(circuit.target), "nats"],
    ["calibration", `× ${number(circuit.scale)}, ${number(circuit.shift)}`, "of the answers’ logit difference"],
    ["nodes", graph.nodes.length.toLocaleString("en"), `of ${circuit.n_possible_nodes.toLocaleString("en")}`],
    [
      "edges",
      graph.edges.length.toLocaleString("en"),
      `of ${circuit.n_possible_edges.toLocaleString("en")} non-zero weights between nodes`,
    ],
    [
      "embedding weights",
      embedding.length.toLocaleString("en"),
      "of the example’s tokens to channels that the circuit reads; counted apart",
    ],
    [
      "unembedding weights",
      unembedding.length.toLocaleString("en"),
      "of channels that the circuit writes to the two answers; counted apart",
    ],
    ["nodes without any link", unlinked.toLocaleString("en"), ""],
    ["ablation", circuit.ablation, "of every node outside"],
    ["validation pairs", circuit.n_pairs.toLocaleString("en"), "behind the losses"],
    ["seed", String(circuit.seed), "of the search"],
    ["corpus positions", positions.toLocaleString("en"), "searched for the nodes’ texts"],
  ];
  root.replaceChildren(table(rows), ...searches(circuit.tried));
}

function table(rows) {
  return el(
    "table",
    {},
    el(
      "tbody",
      {},
      rows.map(([name, value, note]) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, name),
          el("td", { class: "value" }, value),
          el("td", { class: "quiet" }, note),
        ),
      ),
    ),
  );
}

function searches(tried) {
  if (!tried.length) return [];
  const keys = [...new Set(tried.flatMap((one) => Object.keys(one)))];
  const cell = (value) =>
    typeof value === "boolean"
      ? value
        ? "yes"
        : "NO"
      : typeof value === "number" && !Number.isInteger(value)
        ? number(value)
        : String(value ?? "");
  const head = el(
    "tr",
    {},
    keys.map((key) => el("th", {}, key.replaceAll("_", " "))),
  );
  const body = tried.map((one) =>
    el(
      "tr",
      {},
      keys.map((key) => el("td", { class: "value" }, cell(one[key]))),
    ),
  );
  return [
    el(
      "div",
      { class: "scroll" },
      el("table", {}, el("caption", {}, "Searches; the best is shown"), el("thead", {}, head), el("tbody", {}, body)),
    ),
  ];
}
