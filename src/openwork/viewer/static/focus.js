// Moving through the drawing by keyboard, and lighting what belongs to what is selected.

import { alongThread } from "./circuit.js";

// One stop for Tab; the arrow keys go to the nearest button on that side.
export function roam(image) {
  const buttons = [...image.querySelectorAll("[role=button]")];
  buttons[0]?.setAttribute("tabindex", 0);
  const middle = (one) => {
    const box = one.getBoundingClientRect();
    return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  };
  image.addEventListener("focusin", (event) => {
    const now = event.target.closest("[role=button]");
    if (now) buttons.forEach((one) => one.setAttribute("tabindex", one === now ? 0 : -1));
  });
  image.addEventListener("keydown", (event) => {
    const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key] ?? [
      0, 0,
    ];
    const here = event.target.closest("[role=button]");
    if (!here || (!dx && !dy)) return;
    event.preventDefault();
    const from = middle(here);
    const cost = (one) => {
      const to = middle(one);
      const ahead = (to.x - from.x) * dx + (to.y - from.y) * dy;
      return ahead > 2 ? ahead + 3 * Math.abs((to.x - from.x) * dy + (to.y - from.y) * dx) : Infinity;
    };
    const next = buttons.reduce((best, one) => (cost(one) < cost(best) ? one : best), here);
    next.focus();
  });
}

// Lights what belongs to the selection: its edges and their other ends, its thread and who shares it.
export function light(image, graph, marks, selection) {
  const chosen = graph.nodes.filter((node) =>
    selection?.kind === "node"
      ? node.id === selection.id
      : selection?.kind === "head" && node.layer === selection.layer && node.head === selection.head,
  );
  const edges = new Set(chosen.flatMap((node) => [...node.incoming, ...node.outgoing]));
  const threads = new Set(chosen.map((node) => node.thread));
  const ends = [...edges].flatMap((edge) => [edge.source, edge.target]);
  const lit = new Set([...ends, ...chosen.flatMap((node) => [node, ...alongThread(node)].map((one) => one.id))]);
  image.classList.toggle("focused", chosen.length > 0);
  for (const [id, mark] of marks.nodes) {
    mark.classList.toggle("lit", lit.has(id));
    mark.classList.toggle("chosen", selection?.kind === "node" && selection.id === id);
  }
  for (const [edge, both] of marks.edges) both.forEach((mark) => mark.classList.toggle("lit", edges.has(edge)));
  for (const [thread, mark] of marks.threads) mark.classList.toggle("lit", threads.has(thread));
  for (const { thread, mark } of marks.weights) mark.classList.toggle("lit", threads.has(thread));
  for (const [key, mark] of marks.heads)
    mark.classList.toggle(
      "lit",
      chosen.some((node) => `${node.layer} ${node.head}` === key),
    );
}

export function match(marks, ids) {
  for (const [id, mark] of marks.nodes) mark.classList.toggle("match", ids.has(id));
}
