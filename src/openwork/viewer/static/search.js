// Search over nodes: by name, role, and the tokens where they are most active.

import { count, el, visible } from "./dom.js";
import { peakText, roleOf } from "./circuit.js";

const SHOWN = 60;

// Puts a search box into `root`; `found` gets the numbers of the nodes that match, `open` the one that is chosen.
export function searchNodes(root, graph, open, found) {
  const entries = graph.nodes.map((node) => ({ node, ...wordsOf(graph, node) }));
  const input = el("input", {
    type: "search",
    placeholder: "Search nodes and tokens",
    "aria-label": "Search nodes and tokens",
    autocomplete: "off",
    spellcheck: "false",
  });
  const list = el("ul", { class: "results", hidden: "" });
  const choose = (node) => {
    list.hidden = true;
    open({ kind: "node", id: node.id });
  };
  const update = () => {
    const hits = search(entries, input.value);
    found(new Set(input.value.trim() ? hits.map((hit) => hit.node.id) : []));
    const rows = hits
      .slice(0, SHOWN)
      .map((hit) =>
        el(
          "li",
          {},
          el(
            "button",
            { onclick: () => choose(hit.node) },
            el("code", {}, hit.node.name),
            " ",
            el("span", { class: "quiet" }, hit.because),
          ),
        ),
      );
    list.replaceChildren(el("li", { class: "quiet" }, count(hits.length, "node")), ...rows);
  };
  input.addEventListener("input", () => {
    update();
    list.hidden = false;
  });
  input.addEventListener("focus", () => {
    update();
    list.hidden = false;
  });
  root.addEventListener("focusout", (event) => {
    if (!root.contains(event.relatedTarget)) list.hidden = true;
  });
  root.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target === input) list.querySelector("button")?.click();
    if (event.key === "Escape") list.hidden = true;
  });
  root.replaceChildren(input, list);
}

function wordsOf(graph, node) {
  const peaks = [...node.positive, ...node.negative].map((window) => graph.text(window.tokens[window.peak]));
  const near = [...node.positive, ...node.negative].map((window) =>
    window.tokens
      .slice(Math.max(0, window.peak - 4), window.peak + 1)
      .map(graph.text)
      .join(""),
  );
  const linked = [...node.tokens, ...node.answers].map(({ token }) => graph.text(token));
  const peak = peakText(graph, node);
  return {
    name: `${node.name} ${roleOf(node)}`.toLowerCase(),
    peaks,
    near,
    linked,
    first: peak === null ? "" : `peaks on ${visible(peak)}`,
  };
}

// The entries that match, names before peaks before the text near them; all if `text` is empty.
export function search(entries, text) {
  const wanted = text.trim().toLowerCase();
  const has = (words) => words.find((word) => word.toLowerCase().includes(wanted));
  const rank = (entry) => {
    if (entry.name.includes(wanted)) return { order: 0, because: entry.first };
    const peak = has(entry.peaks);
    if (peak !== undefined) return { order: 1, because: `peaks on ${visible(peak)}` };
    const linked = has(entry.linked);
    if (linked !== undefined) return { order: 2, because: `has a weight to ${visible(linked)}` };
    const near = has(entry.near);
    return near === undefined ? null : { order: 3, because: `peaks after ${visible(near)}` };
  };
  const hits = entries.map((entry) => ({ node: entry.node, ...rank(entry) })).filter((hit) => hit.order !== undefined);
  return hits.sort((a, b) => a.order - b.order || a.node.id - b.node.id);
}
