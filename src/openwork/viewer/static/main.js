// Puts the panels together. What is selected lies in the address, so that a link to a node can be kept.

import { graphOf, readPayload } from "./circuit.js";
import { drawCircuit } from "./drawing.js";
import { inspect } from "./inspector.js";
import { showCard } from "./card.js";
import { showExample } from "./example.js";
import { showLegend, showOptions } from "./legend.js";
import { showNumbers } from "./numbers.js";
import { showSummary } from "./summary.js";
import { searchNodes } from "./search.js";
import { offer, standalone } from "./export.js";

function start() {
  const part = (id) => document.getElementById(id);
  const graph = graphOf(readPayload());
  showSummary(part("summary"), graph);
  showExample(part("example"), graph);
  showCard(part("card"), graph);
  showNumbers(part("numbers"), graph);
  showLegend(part("legend"), graph);

  const state = { selection: null, matches: new Set(), width: 0, drawing: null };
  const inspector = inspect(part("inspector"), graph, open);
  function redraw() {
    if (part("drawing").clientWidth === state.width) return;
    state.width = part("drawing").clientWidth;
    state.drawing = drawCircuit(part("drawing"), graph, open);
    part("drawing").classList.toggle("clipped", part("drawing").scrollHeight > part("drawing").clientHeight + 1);
    state.drawing.show(state.selection);
    state.drawing.matches(state.matches);
  }
  function open(selection) {
    history.replaceState(null, "", selection === null ? "#" : `#${addressOf(graph, selection)}`);
    show(selection);
    if (selection !== null) part("inspector").scrollIntoView({ block: "nearest", behavior: "smooth" });
  }
  function show(selection) {
    state.selection = selection;
    state.drawing.show(selection);
    inspector.show(selection);
  }
  redraw();
  show(selectionAt(graph, location.hash));
  searchNodes(part("search"), graph, open, (matches) => state.drawing.matches((state.matches = matches)));
  showOptions(part("options"), part("drawing"), () =>
    offer(standalone(state.drawing.svg), `${graph.payload.task.name}.svg`),
  );
  addEventListener("hashchange", () => show(selectionAt(graph, location.hash)));
  addEventListener("resize", redraw);
  addEventListener("keydown", (event) => event.key === "Escape" && state.selection !== null && open(null));
  if (location.hash === "#picture")
    document.body.replaceChildren(
      Object.assign(document.createElement("pre"), { id: "picture", textContent: standalone(state.drawing.svg) }),
    );
}

function addressOf(graph, selection) {
  return selection.kind === "node" ? graph.nodes[selection.id].name : `${selection.layer}.attn.head${selection.head}`;
}

function selectionAt(graph, hash) {
  const name = hash.slice(1);
  const node = graph.byName.get(name);
  if (node) return { kind: "node", id: node.id };
  const head = graph.payload.heads.find((one) => `${one.layer}.attn.head${one.head}` === name);
  return head ? { kind: "head", layer: head.layer, head: head.head } : null;
}

start();
