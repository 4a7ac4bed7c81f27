// The circuit as a scene: every node, token, answer and bend of a thread with its place and size in pixels.

import { count, short } from "./dom.js";
import { peakText } from "./circuit.js";
import { place } from "./layout.js";

const LETTER = 6.7;
const SPARSE_UP_TO = 40;

// Lays the graph out for a drawing `room` pixels wide; `vertical` runs from top to bottom instead of left to right.
export function sceneOf(graph, room, vertical) {
  const sparse = graph.nodes.length <= SPARSE_UP_TO;
  const tallest = Math.max(...graph.columns.map((column) => column.nodes.length));
  const pitch = sparse ? Math.min(64, Math.max(38, 300 / tallest)) : 20;
  const look = { vertical, sparse, hints: sparse && !vertical, height: sparse ? 21 : 16, pitch };
  const scene = { ...look, ...itemsOf(graph, look) };
  const headRoom = vertical ? 10 : look.hints ? 24 : 20;
  const gap = (a, b) => (a.size + b.size) / 2 + (a.group === b.group ? 0 : b.group ? headRoom + (a.group ? 8 : 4) : 8);
  scene.crossings = place(scene.columns, scene.links, gap);
  const boxed = scene.columns.flat().filter((item) => item.group);
  const lift = Math.max(0, ...boxed.map((item) => headRoom - item.at + item.size / 2));
  setPlaces(scene, room, lift);
  scene.heads = headsOf(graph, scene);
  return scene;
}

function itemsOf(graph, look) {
  const last = graph.columns.length + 1;
  const columns = Array.from({ length: last + 1 }, () => []);
  const names = ["", ...graph.columns, ""];
  const add = (column, item) => {
    columns[column].push(item);
    return item;
  };
  const ofNode = new Map(graph.nodes.map((node) => [node, add(node.column + 1, nodeItem(graph, node, look))]));
  const member = graph.payload.task.example[0];
  const ofAnswer = new Map(
    [member.right, member.wrong].map((id) => [id, add(last, tokenItem(graph, id, "answer", look))]),
  );
  const ofToken = tokenItems(graph, look, (item) => add(0, item));
  const threads = graph.threads.map((thread) => ({ thread, points: pointsOf(thread, ofNode, last, add) }));
  const edges = graph.edges.map((edge) => ({
    edge,
    a: ofNode.get(graph.nodes[edge.source]),
    b: ofNode.get(graph.nodes[edge.target]),
  }));
  const weights = threads.flatMap(({ thread, points }) => [
    ...thread.tokens.map(({ token, weight }) => ({ thread, weight, token, a: ofToken.get(token), b: points[0] })),
    ...thread.answers.map(({ token, weight }) => ({ thread, weight, token, a: points.at(-1), b: ofAnswer.get(token) })),
  ]);
  const filled = columns.map((column, i) => ({ column, name: names[i] })).filter(({ column }) => column.length);
  filled.forEach(({ column }, i) => column.forEach((item) => (item.column = i)));
  const links = linksOf(graph, edges, threads, weights);
  return { columns: filled.map((f) => f.column), names: filled.map((f) => f.name), edges, threads, weights, links };
}

function linksOf(graph, edges, threads, weights) {
  const strength = (weight) => 0.5 + Math.abs(weight) / graph.largestWeight;
  return [
    ...edges.map(({ edge, a, b }) => ({ a, b, weight: strength(edge.weight) })),
    ...threads.flatMap(({ points }) => points.slice(1).map((b, i) => ({ a: points[i], b, weight: 2 }))),
    ...weights.map(({ a, b }) => ({ a, b, weight: 0.2 })),
  ];
}

// The items through which a thread runs: its nodes, and a bend in every column between.
function pointsOf(thread, ofNode, last, add) {
  const beads = new Map(thread.beads.map((node) => [node.column + 1, ofNode.get(node)]));
  const points = [];
  for (let column = Math.max(1, thread.from + 1); column <= Math.min(last - 1, thread.to + 1); column++) {
    points.push(beads.get(column) ?? add(column, { bend: thread, size: 6, w: 0, h: 0 }));
  }
  return points;
}

function nodeItem(graph, node, look) {
  const isHead = node.head !== null;
  const label = isHead ? `${node.site.at(-1)}${node.channel}` : String(node.index);
  const peak = look.hints ? peakText(graph, node) : null;
  const w = LETTER * label.length + 14;
  const size = look.vertical ? w + (look.sparse ? 30 : 6) : isHead ? look.height + (look.hints ? 17 : 4) : look.pitch;
  const group = isHead ? `${node.layer} ${node.head}` : undefined;
  const part = isHead ? "qkv".indexOf(node.site.at(-1)) : undefined;
  return { node, label, hint: peak === null ? null : `on ${short(peak, 9)}`, w, h: look.height, size, group, part };
}

function tokenItem(graph, token, kind, look) {
  const label = short(graph.text(token), 14);
  const length = LETTER * [...label].length + 8;
  const isAnswer = kind === "answer";
  const turned = look.vertical && !isAnswer;
  const size = look.vertical ? (isAnswer ? length + 14 : 19) : isAnswer ? 34 : 20;
  return { token, kind, label, w: turned ? 18 : length, h: turned ? length : 18, size, fixed: true };
}

// The prompt's tokens that have a weight to the circuit, in the prompt's order.
function tokenItems(graph, look, add) {
  const linked = new Set(graph.threads.flatMap((thread) => thread.tokens.map(({ token }) => token)));
  const [first, second] = graph.payload.task.example.map((member) => member.tokens);
  const order = first.flatMap((token, i) => [token, second[i]]).filter((token) => linked.has(token));
  return new Map([...new Set(order)].map((token) => [token, add(tokenItem(graph, token, "token", look))]));
}

// From places along the columns to pixels: x and y are the middle of every item.
function setPlaces(scene, room, lift) {
  const { vertical, columns, names } = scene;
  const header = (name) => (name ? Math.max(name.name.length, name.part.length) * 6.2 : 0);
  const slots = columns.map((column, i) => {
    const size = Math.max(...column.map((item) => (vertical ? item.h : item.w)));
    return vertical ? size : Math.max(size + (column.some((item) => item.group) ? 14 : 0), header(names[i]));
  });
  const free = room - slots.reduce((sum, slot) => sum + slot, 0) - 8;
  const most = scene.sparse ? 110 : 90;
  const between = vertical ? 62 : Math.min(most, Math.max(26, free / Math.max(1, slots.length - 1)));
  const start = vertical ? { along: 12, across: 6 } : { along: 52, across: 4 };
  let edge = start.across;
  scene.slots = slots.map((slot) => {
    const found = { from: edge, to: edge + slot, middle: edge + slot / 2 };
    edge += slot + between;
    return found;
  });
  let far = 0;
  for (const item of columns.flat()) {
    const across = scene.slots[item.column].middle;
    const along = start.along + lift + item.at;
    Object.assign(item, vertical ? { x: along, y: across } : { x: across, y: along });
    far = Math.max(far, along + item.size / 2);
  }
  const across = edge - between + start.across;
  if (vertical) columns.flat().forEach((item) => (item.x += Math.max(0, (room - far - 12) / 2)));
  Object.assign(
    scene,
    vertical ? { width: Math.max(room, far + 12), height: across } : { width: across, height: far + 14 },
  );
}

function headsOf(graph, scene) {
  return graph.payload.heads.map((head) => {
    const items = scene.columns.flat().filter((item) => item.group === `${head.layer} ${head.head}`);
    const left = Math.min(...items.map((item) => item.x - item.w / 2));
    const right = Math.max(...items.map((item) => item.x + item.w / 2));
    const top = Math.min(...items.map((item) => item.y - item.h / 2));
    const bottom = Math.max(...items.map((item) => item.y + item.h / 2 + (item.hint ? 12 : 0)));
    const name = `head ${head.head}`;
    const wide = Math.max(right - left, LETTER * name.length * 0.9);
    const middle = (left + right) / 2;
    const above = scene.vertical ? 16 : scene.hints ? 31 : 18;
    return {
      ...{ head, name, look: lookOf(graph, head) },
      ...{ x: middle - wide / 2 - 6, y: top - above, w: wide + 12, h: bottom - top + above + 5 },
    };
  });
}

// Where a head looks from the last token, in the circuit: the token with the most attention.
function lookOf(graph, head) {
  const row = head.circuit[0].at(-1);
  const key = row.indexOf(Math.max(...row));
  return { text: graph.text(graph.payload.task.example[0].tokens[key]), attention: row[key] };
}

// The scene in one sentence, for those who hear the page.
export function describe(graph) {
  const parts = [
    count(graph.nodes.length, "node"),
    count(graph.edges.length, "edge"),
    `${graph.columns.length} columns`,
  ];
  return `The circuit: ${parts.join(", ")}, from the prompt's tokens to the answers.`;
}
