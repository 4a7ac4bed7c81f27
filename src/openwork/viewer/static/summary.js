// The head of the page: one plain sentence, and in plain sight whatever speaks against the circuit.

import { count, el, number } from "./dom.js";

export function showSummary(root, graph) {
  const { circuit, card, task, model } = graph.payload;
  root.replaceChildren(
    el("p", { class: "kicker" }, "Openwork · a circuit"),
    el("h1", {}, task.name),
    el("p", { class: "lead" }, sentence(graph)),
    el("p", { class: "verdicts" }, verdicts(circuit, card)),
    ...warnings(graph),
    el(
      "p",
      { class: "quiet" },
      `${count(model.n_layers, "layer")}, d_model ${model.d_model} · model ${model.hash.slice(0, 12)} · task ${task.hash.slice(0, 12)}`,
    ),
  );
}

// Task, losses, size and ablation in one sentence.
export function sentence({ payload, nodes, edges }) {
  const { circuit, task } = payload;
  const { losses, ablation, n_possible_nodes: allNodes, n_possible_edges: allEdges } = circuit;
  const size = [
    `${count(nodes.length, "node")} of ${allNodes.toLocaleString("en")}`,
    `${count(edges.length, "edge")} of ${allEdges.toLocaleString("en")}`,
  ].join(" and ");
  const rest = `with every other node held at ${ablation === "mean" ? "its mean" : "zero"}`;
  return (
    `On ${task.name} the whole model has a loss of ${nats(losses.unpruned)}; ` +
    `this circuit, ${size}, has ${nats(losses.circuit)} ${rest}.`
  );
}

function nats(value) {
  return `${Number.isFinite(value) ? value.toFixed(3) : "n/a"} nats`;
}

function verdicts(circuit, card) {
  const chip = (good, text) => el("span", { class: `chip ${good ? "pass" : "fail"}` }, `${good ? "✓" : "✗"} ${text}`);
  const target = chip(
    circuit.reached,
    `target ${number(circuit.target)} ${circuit.reached ? "reached" : "not reached"}`,
  );
  if (card === null) return [target, chip(false, "not verified")];
  return [target, ...card.checks.map((check) => chip(check.passed, check.name))];
}

function warnings({ payload }) {
  const { circuit } = payload;
  const { unpruned, circuit: pruned, circuit_uncalibrated: raw } = circuit.losses;
  const lines = [];
  if (!circuit.reached)
    lines.push(
      `Target not reached: the loss is ${nats(pruned)}, the target ${number(circuit.target)}. ` +
        "What is drawn here is the nearest that the search came, not a circuit for the task.",
    );
  if (pruned < unpruned)
    lines.push(
      `The circuit’s loss lies below the whole model’s (${nats(pruned)} against ${nats(unpruned)}): pruning chose nodes by ` +
        `this loss${raw === undefined ? "" : `, and calibration moved it from ${nats(raw)}`}. ` +
        "It is not evidence that the model works this way.",
    );
  return lines.map((line) => el("p", { class: circuit.reached ? "banner mild" : "banner" }, line));
}
