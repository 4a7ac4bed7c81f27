// What is selected, in full: a node with its texts, its activations and its edges, or a head with its attention.

import { count, el, number, percent, signed, visible } from "./dom.js";
import { alongThread, roleOf } from "./circuit.js";
import { concordance, strip } from "./texts.js";
import { attentionView } from "./attention.js";

// Shows selections in `root`; `open` is called when a reader follows a link to another node.
export function inspect(root, graph, open) {
  const show = (selection) => {
    root.classList.toggle("filled", selection !== null);
    if (selection === null)
      root.replaceChildren(
        el("p", { class: "quiet" }, "Open a node or a head to see its texts, its activations and its weights."),
      );
    else
      root.replaceChildren(
        ...(selection.kind === "node"
          ? nodeView(graph, graph.nodes[selection.id], open)
          : headView(graph, selection, open)),
      );
  };
  return { show };
}

function heading(title, subtitle, open) {
  const close = el("button", { class: "close", "aria-label": "Close", onclick: () => open(null) }, "×");
  return el("header", {}, el("h3", {}, title), el("p", { class: "quiet" }, subtitle), close);
}

function nodeView(graph, node, open) {
  const { payload } = graph;
  const facts = [
    roleOf(node),
    `not zero at ${percent(node.active)} of ${payload.n_positions.toLocaleString("en")} corpus positions`,
    `${number(node.ablated)} when ablated`,
  ];
  const head =
    node.head === null
      ? null
      : el(
          "p",
          {},
          "Belongs to ",
          link(`head ${node.head} of layer ${node.layer}`, () =>
            open({ kind: "head", layer: node.layer, head: node.head }),
          ),
        );
  return [
    heading(node.name, facts.join(" · "), open),
    ...(head ? [head] : []),
    el(
      "div",
      { class: "panes" },
      el(
        "section",
        {},
        el("h4", {}, "Most active, positive"),
        concordance(graph, node.positive, "Never above zero in the texts looked at."),
      ),
      el(
        "section",
        {},
        el("h4", {}, "Most active, negative"),
        concordance(graph, node.negative, "Never below zero in the texts looked at."),
      ),
      el("section", {}, el("h4", {}, "On the example pair"), onExample(graph, node)),
      el("section", { class: "wiring" }, el("h4", {}, "Weights"), wiring(graph, node, open)),
    ),
  ];
}

function onExample(graph, node) {
  const most = Math.max(1e-9, ...[...node.model, ...node.circuit].flat().map((value) => Math.abs(value ?? 0)));
  return graph.payload.task.example.map((member, i) => {
    const texts = member.tokens.map(graph.text);
    const row = (name, values) =>
      el(
        "div",
        { class: "run" },
        el("span", { class: "who" }, `${name}, last ${signed(values.at(-1))}`),
        strip(texts, values, most),
      );
    return el("div", { class: "member" }, row("model", node.model[i]), row("circuit", node.circuit[i]));
  });
}

function wiring(graph, node, open) {
  const along = alongThread(node);
  const isRead = node.kind.endsWith("act_in");
  const blocks = [
    block("Incoming edges", node.incoming, (edge) => nodeRow(graph, edge.source, edge.weight, open)),
    block("Outgoing edges", node.outgoing, (edge) => nodeRow(graph, edge.target, edge.weight, open)),
    block(`Residual channel ${node.index}, ${isRead ? "written by" : "read by"} (no weight)`, along, (other) =>
      nodeRow(graph, other.id, null, open),
    ),
    block("Embedding weights (not counted as edges)", node.tokens, ({ token, weight }) =>
      row(graph, el("code", {}, visible(graph.text(token))), weight),
    ),
    block("Unembedding weights (not counted as edges)", node.answers, ({ token, weight }) =>
      row(graph, el("code", {}, visible(graph.text(token))), weight),
    ),
  ].filter(Boolean);
  return blocks.length ? blocks : el("p", { class: "quiet" }, loneliness(node));
}

function loneliness(node) {
  const isQuery = node.kind === "attn.q" || node.kind === "attn.k";
  const works = isQuery
    ? "Its value is its bias, the same at every token; it may still decide where the head looks."
    : "It holds its own value instead of the ablated one.";
  return `No weight links it to another node of the circuit. ${works}`;
}

function block(title, items, rowOf) {
  return items.length
    ? el("div", {}, el("h5", {}, title), el("table", { class: "weights-table" }, el("tbody", {}, items.map(rowOf))))
    : null;
}

function nodeRow(graph, id, weight, open) {
  return row(
    graph,
    link(graph.nodes[id].name, () => open({ kind: "node", id })),
    weight,
  );
}

function row(graph, what, weight) {
  if (weight === null) return el("tr", {}, el("td", {}, what), el("td", {}), el("td", {}));
  const bar = el("span", { class: `bar ${weight > 0 ? "positive" : "negative"}` });
  bar.style.width = `${Math.min(100, (100 * Math.abs(weight)) / graph.largestWeight)}%`;
  return el(
    "tr",
    {},
    el("td", {}, what),
    el("td", { class: "value" }, signed(weight)),
    el("td", { class: "bars" }, bar),
  );
}

function link(text, onclick) {
  return el("button", { class: "link", onclick }, text);
}

function headView(graph, selection, open) {
  const { payload } = graph;
  const head = payload.heads.find((one) => one.layer === selection.layer && one.head === selection.head);
  const channels = graph.nodes.filter((node) => node.layer === head.layer && node.head === head.head);
  const patterns = payload.task.example.map((member, i) => {
    const texts = member.tokens.map(graph.text);
    const pane = (name, pattern) =>
      el("section", {}, el("h4", {}, name), attentionView(texts, pattern, payload.model.sink));
    return [
      pane(`Member ${i + 1}, in the circuit`, head.circuit[i]),
      pane(`Member ${i + 1}, in the whole model`, head.model[i]),
    ];
  });
  return [
    heading(
      `${head.layer}.attn.head${head.head}`,
      `attention head ${head.head} of layer ${head.layer} · ${count(channels.length, "channel")} of ${3 * payload.model.d_head} in the circuit`,
      open,
    ),
    el(
      "p",
      { class: "chips" },
      channels.map((node) => link(node.name, () => open({ kind: "node", id: node.id }))),
    ),
    el("div", { class: "panes" }, patterns),
  ];
}
