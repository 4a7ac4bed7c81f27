// A head's attention on the example pair: one row as coloured tokens, the whole pattern as squares.

import { el, number, svg, visible } from "./dom.js";
import { strip } from "./texts.js";

const ROOM = 260;

// The pattern (query, key) over the tokens `texts`; a click on a square or token chooses the query that is read.
export function attentionView(texts, pattern, sink) {
  const reading = el("div", { class: "reading" });
  const grid = squares(texts, pattern, (query) => read(query));
  const read = (query) => {
    const row = pattern[query];
    const rest = 1 - row.reduce((sum, value) => sum + value, 0);
    const marked = (key) => ({ class: key === query ? "query" : "", onclick: () => read(key) });
    reading.replaceChildren(
      el(
        "p",
        { class: "quiet" },
        "From ",
        el("code", {}, visible(texts[query])),
        ` (token ${query + 1})`,
        sink ? `; the sink takes ${number(Math.max(0, rest))}` : "",
      ),
      strip(
        texts,
        row.map((value, key) => (key <= query ? value : 0)),
        1,
        marked,
      ),
      el("p", { class: "quiet" }, "Most at ", strongest(texts, row)),
    );
    for (const square of grid.querySelectorAll(".row"))
      square.classList.toggle("chosen", Number(square.dataset.query) === query);
  };
  read(pattern.length - 1);
  return el("div", { class: "attention" }, grid, reading);
}

function strongest(texts, row) {
  const order = row.map((value, key) => ({ value, key })).sort((a, b) => b.value - a.value);
  return order
    .slice(0, 3)
    .flatMap(({ value, key }, i) => [i ? ", " : "", el("code", {}, visible(texts[key])), ` ${number(value)}`]);
}

function squares(texts, pattern, choose) {
  const cell = Math.min(18, Math.max(7, Math.floor(ROOM / pattern.length)));
  const size = cell * pattern.length;
  const rows = pattern.map((row, query) =>
    svg(
      "g",
      { class: "row", "data-query": query, onclick: () => choose(query) },
      svg("rect", { x: 0, y: cell * query, width: size, height: cell, class: "ground" }),
      row.slice(0, query + 1).map((value, key) =>
        svg(
          "rect",
          {
            x: cell * key,
            y: cell * query,
            width: cell - 1,
            height: cell - 1,
            "fill-opacity": Math.max(0.06, value ?? 0).toFixed(3),
          },
          svg("title", {}, `${visible(texts[query])} looks at ${visible(texts[key])}: ${number(value)}`),
        ),
      ),
    ),
  );
  const label = "attention pattern: one row a query, one column a key";
  return svg(
    "svg",
    { class: "pattern", width: size, height: size, viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": label },
    rows,
  );
}
