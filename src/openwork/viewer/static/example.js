// The example pair: both prompts with what differs marked, and the answers of the model and of the circuit.

import { el, number, signed, visible } from "./dom.js";

export function showExample(root, graph) {
  const { task, circuit } = graph.payload;
  const members = task.example;
  root.replaceChildren(
    el("p", {}, task.description || ""),
    el(
      "div",
      { class: "pair" },
      members.map((member, i) => memberView(graph, member, members[1 - i])),
    ),
    el("p", { class: "quiet" }, calibration(circuit)),
    el("p", { class: "quiet" }, constant(graph)),
  );
}

function memberView(graph, member, other) {
  const token = (id, i) =>
    el("span", { class: id === other.tokens[i] ? "token" : "token differs" }, visible(graph.text(id)));
  const runs = [
    ["whole model", member.model],
    ["circuit", member.circuit],
  ];
  return el(
    "article",
    { class: "member" },
    el("div", { class: "strip" }, member.tokens.map(token), el("span", { class: "blank" }, "?")),
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          [
            "",
            answer(graph, member.right, "right"),
            answer(graph, member.wrong, "wrong"),
            "right, of the two",
            "loss",
          ].map((cell) => el("th", {}, cell)),
        ),
      ),
      el(
        "tbody",
        {},
        runs.map(([name, run]) => el("tr", { class: run.of_two > 0.5 ? "" : "missed" }, cells(name, run))),
      ),
    ),
  );
}

function cells(name, run) {
  const numbers = [run.right, run.wrong, run.of_two, -Math.log(run.of_two)];
  return [el("th", { scope: "row" }, name), ...numbers.map((value) => el("td", {}, number(value)))];
}

function answer(graph, id, kind) {
  return [el("code", {}, visible(graph.text(id))), ` ${kind}`];
}

function calibration({ scale, shift }) {
  return (
    "Probabilities of right and wrong are among all tokens, as the logits stand. “Of the two” compares only these two; " +
    `for the circuit it is calibrated: logit difference × ${number(scale)} ${shift < 0 ? "−" : "+"} ${number(Math.abs(shift))}.`
  );
}

// What pushes the answers apart without passing through any node: the bigram table and the unembedding's bias.
function constant(graph) {
  const { task, model } = graph.payload;
  const [right, wrong] = task.bigram[0];
  const member = task.example[0];
  const name = `logit of ${visible(graph.text(member.right))} minus logit of ${visible(graph.text(member.wrong))}`;
  const bias = `the unembedding’s bias adds ${signed(task.bias[0] - task.bias[1])}`;
  const bigram = `the bigram table (${model.bigram}) adds ${signed(right - wrong)}`;
  const what = model.bigram === "off" ? bias : `${bigram} and ${bias}`;
  return `Outside of every circuit: to the ${name}, ${what}, in both members and in the circuit too.`;
}
