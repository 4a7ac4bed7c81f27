// The drawing: the scene as SVG. Nodes and heads are buttons; what is selected is lit, the rest steps back.

import { number, short, signed, svg, visible } from "./dom.js";
import { roleOf } from "./circuit.js";
import { at, curve, placeNumbers } from "./curves.js";
import { light, match, roam } from "./focus.js";
import { describe, sceneOf } from "./scene.js";

const LABELS = 16;

// Draws the graph into `root`; returns {show(selection), matches(nodes), svg}. `open` is called with what a reader opens.
export function drawCircuit(root, graph, open) {
  const vertical = root.clientWidth < 560;
  const scene = sceneOf(graph, root.clientWidth, vertical);
  const marks = { nodes: new Map(), edges: new Map(), threads: new Map(), weights: [], heads: new Map() };
  const drawn = drawEdges(graph, scene, marks);
  const image = svg(
    "svg",
    {
      ...{
        width: Math.ceil(scene.width),
        height: Math.ceil(scene.height),
        role: "group",
        "aria-label": describe(graph),
      },
      ...{
        viewBox: `0 0 ${Math.ceil(scene.width)} ${Math.ceil(scene.height)}`,
        class: `${scene.sparse ? "sparse" : "dense"} ${vertical ? "vertical" : ""}`,
      },
    },
    bands(scene),
    svg(
      "g",
      { class: "threads" },
      scene.threads.map((thread) => drawThread(thread, scene, marks)),
    ),
    svg(
      "g",
      { class: "weights" },
      scene.weights.map((weight) => drawWeight(graph, weight, scene, marks)),
    ),
    svg(
      "g",
      { class: "boxes" },
      scene.heads.map((head) => drawHead(head, vertical, open, marks)),
    ),
    svg(
      "g",
      { class: "edges" },
      drawn.map(({ mark }) => mark),
    ),
    svg(
      "g",
      { class: "tokens" },
      scene.columns
        .flat()
        .filter((item) => item.kind)
        .map((item) => drawToken(graph, item, scene)),
    ),
    svg(
      "g",
      { class: "numbers" },
      drawn.map(({ label }) => label),
    ),
    svg(
      "g",
      { class: "nodes" },
      scene.columns
        .flat()
        .filter((item) => item.node)
        .map((item) => drawNode(item, open, marks)),
    ),
  );
  root.replaceChildren(image);
  root.scrollLeft = vertical ? (scene.width - root.clientWidth) / 2 : 0;
  roam(image);
  return {
    svg: image,
    scene,
    show: (selection) => light(image, graph, marks, selection),
    matches: (ids) => match(marks, ids),
  };
}

function bands(scene) {
  const { slots, vertical } = scene;
  const marks = scene.names.map((name, i) => {
    if (!name) return null;
    const { from, to, middle } = slots[i];
    if (vertical) return svg("text", { class: "site", x: 2, y: from - 20 }, `${name.name}.${name.part}`);
    const at = { class: "site", x: middle, "text-anchor": "middle" };
    return svg(
      "g",
      {},
      svg("rect", { class: "band", x: from - 6, y: 0, width: to - from + 12, height: scene.height, rx: 6 }),
      svg("text", { ...at, y: 15 }, name.name),
      svg("text", { ...at, y: 28, class: "site part" }, name.part),
    );
  });
  return svg("g", { class: "bands" }, marks);
}

function drawThread({ thread, points }, scene, marks) {
  const path = points
    .slice(1)
    .map((b, i) => curve(points[i], b, scene) + through(b, scene))
    .join("");
  const title = `residual channel ${thread.channel}: carried on without a weight, not counted as an edge`;
  const mark = svg(
    "g",
    { class: "thread" },
    svg("path", { d: path }),
    svg("path", { d: path, class: "hit" }, svg("title", {}, title)),
  );
  marks.threads.set(thread, mark);
  return mark;
}

// Bends have no width, so that a thread runs on through them; behind nodes it pauses.
function through(item, scene) {
  return item.bend ? `L${at(item.x + (scene.vertical ? 0 : 0.1))} ${at(item.y)}` : "";
}

function drawWeight(graph, { thread, weight, token, a, b }, scene, marks) {
  const what = `${b.kind ? "unembedding" : "embedding"} weight of ${visible(graph.text(token))}`;
  const title = `${what}, residual channel ${thread.channel}: ${signed(weight)}; counted apart`;
  const path = curve(a, b, scene);
  const style = { d: path, "stroke-width": at(0.8 + 1.4 * Math.min(1, Math.abs(weight) / graph.largestWeight)) };
  const kind = weight > 0 ? "weight positive" : "weight negative";
  const mark = svg(
    "g",
    { class: kind },
    svg("path", style),
    svg("path", { d: path, class: "hit" }, svg("title", {}, title)),
  );
  marks.weights.push({ thread, mark });
  return mark;
}

// For each edge, the weakest first, its line and its number, which shows while the line is pointed at.
function drawEdges(graph, scene, marks) {
  const strongest = [...scene.edges].sort((x, y) => Math.abs(y.edge.weight) - Math.abs(x.edge.weight));
  const spots = placeNumbers(strongest, scene);
  const drawn = strongest.map(({ edge, a, b }, rank) => {
    const share = Math.abs(edge.weight) / graph.largestWeight;
    const width = at(0.7 + (scene.sparse ? 4.3 : 3.3) * share);
    const path = curve(a, b, scene);
    const spot = spots.get(edge);
    const sign = edge.weight > 0 ? "positive" : "negative";
    const strong = spot.free && rank < LABELS ? "strong" : "";
    const label = svg(
      "text",
      { x: at(spot.x), y: at(spot.y + 3.5), class: `number ${sign} ${strong}` },
      signed(edge.weight),
    );
    const point = (on) => () => label.classList.toggle("pointed", on);
    const mark = svg(
      "g",
      { class: `edge ${sign}`, onpointerenter: point(true), onpointerleave: point(false) },
      svg("path", { d: path, "stroke-width": width, "stroke-opacity": scene.sparse ? 0.85 : at(0.25 + 0.6 * share) }),
      svg("path", { d: path, class: "hit" }, svg("title", {}, namesOf(graph, edge))),
    );
    marks.edges.set(edge, [mark, label]);
    return { mark, label };
  });
  return drawn.reverse();
}

function namesOf(graph, edge) {
  return `${graph.nodes[edge.source].name} to ${graph.nodes[edge.target].name}: ${signed(edge.weight)}`;
}

function drawHead(box, vertical, open, marks) {
  const { head, name, look, x, y, w, h } = box;
  const sees = `${visible(look.text)} (${number(look.attention)}, in the circuit)`;
  const title = `layer ${head.layer}, ${name}: from the last token it looks most at ${sees}`;
  const spot = vertical ? { x: at(x + 7) } : { x: at(x + w / 2), "text-anchor": "middle" };
  const mark = svg(
    "g",
    button(title, () => open({ kind: "head", layer: head.layer, head: head.head }), "head"),
    svg("rect", { x: at(x), y: at(y), width: at(w), height: at(h), rx: 7 }),
    svg("text", { ...spot, y: at(y + 13), class: "name" }, name),
    svg("text", { ...spot, y: at(y + 25), class: "hint" }, `at ${short(look.text, 9)}`),
    svg("title", {}, title),
  );
  marks.heads.set(`${head.layer} ${head.head}`, mark);
  return mark;
}

function drawToken(graph, item, scene) {
  const isAnswer = item.kind === "answer";
  const title = `${isAnswer ? "answer" : "token of the prompt"}: ${visible(graph.text(item.token))}`;
  return svg(
    "g",
    { class: item.kind },
    svg("text", tokenSpot(item, isAnswer, scene.vertical), item.label),
    svg("title", {}, title),
  );
}

function tokenSpot({ x, y, w, h }, isAnswer, vertical) {
  if (vertical && isAnswer) return { x: at(x), y: at(y + 4), "text-anchor": "middle" };
  if (vertical) return { transform: `translate(${at(x + 4)} ${at(y + h / 2 - 4)}) rotate(-90)` };
  return isAnswer
    ? { x: at(x - w / 2 + 4), y: at(y + 4) }
    : { x: at(x + w / 2 - 4), y: at(y + 4), "text-anchor": "end" };
}

function drawNode(item, open, marks) {
  const { node, x, y, w, h } = item;
  const title = `${node.name}: ${roleOf(node)}`;
  const round = { "mlp.post_act": h / 2, "attn.q": 3, "attn.k": 3, "attn.v": 3 }[node.kind] ?? 6;
  const mark = svg(
    "g",
    {
      ...button(title, () => open({ kind: "node", id: node.id }), `node ${node.kind.replace(".", "-")}`),
      "data-node": node.name,
    },
    svg("rect", { x: at(x - w / 2), y: at(y - h / 2), width: at(w), height: h, rx: round }),
    svg("text", { x: at(x), y: at(y + 3.8), "text-anchor": "middle", class: "name" }, item.label),
    item.hint
      ? svg("text", { x: at(x), y: at(y + h / 2 + 10), "text-anchor": "middle", class: "hint" }, item.hint)
      : null,
    svg("title", {}, title),
  );
  marks.nodes.set(node.id, mark);
  return mark;
}

function button(label, act, kind) {
  const onkeydown = (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    act();
  };
  return { class: kind, role: "button", tabindex: -1, "aria-label": label, onclick: act, onkeydown };
}
