// Tokens coloured by a number each: the prompt of the example, and windows of the corpus with their peak in the middle.

import { el, number, signed, visible } from "./dom.js";

const FAINT = 0.02;

// A token whose background says `value`, of which `most` is the strongest colour.
export function tint(text, value, most, attributes = {}) {
  const share = most > 0 && value !== null ? Math.min(1, Math.abs(value) / most) : 0;
  const kind = value > 0 ? "positive" : "negative";
  const tinted = share > FAINT;
  const token = el("span", { title: `${visible(text)}  ${signed(value)}`, ...attributes }, text);
  token.className = `token ${tinted ? kind : ""} ${attributes.class ?? ""}`.trim();
  if (tinted) token.style.setProperty("--share", `${Math.round(8 + 72 * share)}%`);
  return token;
}

// A row of tokens with visible blanks, each coloured by its value.
export function strip(texts, values, most, attributesOf = () => ({})) {
  return el(
    "div",
    { class: "strip" },
    texts.map((text, i) => tint(visible(text), values[i], most, attributesOf(i))),
  );
}

// Windows of the corpus, one a line, peaks under each other; a click on a line opens its window in full.
export function concordance(graph, windows, none) {
  if (!windows.length) return el("p", { class: "quiet" }, none);
  const most = Math.max(...windows.map((window) => Math.abs(window.values[window.peak])));
  return el(
    "ol",
    { class: "concordance" },
    windows.map((window) => el("li", {}, line(graph, window, most))),
  );
}

function line(graph, window, most) {
  const token = (i, shown) =>
    tint(shown(graph.text(window.tokens[i])), window.values[i], most, { class: i === window.peak ? "peak" : "" });
  const range = (from, to, shown) => window.tokens.slice(from, to).map((_, i) => token(from + i, shown));
  const { peak } = window;
  const summary = el(
    "summary",
    {
      "aria-label": `activation ${signed(window.values[peak])} at ${visible(graph.text(window.tokens[peak]))}; open the text in full`,
    },
    el("span", { class: "value" }, number(window.values[peak])),
    el("span", { class: "before" }, el("bdi", {}, range(0, peak, inline))),
    token(peak, inline),
    el("span", { class: "after" }, range(peak + 1, window.tokens.length, inline)),
  );
  const details = el("details", {}, summary);
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1)
      details.append(
        el(
          "pre",
          {},
          range(0, window.tokens.length, (text) => text),
        ),
      );
  });
  return details;
}

// A token on one line: breaks and tabs as signs, blanks as they are.
function inline(text) {
  return text.replaceAll("\r", "␍").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}
