// Elements and numbers. Text always enters the page as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

// An HTML element with attributes (onclick and the like are listeners) and children, strings or elements.
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// The same for SVG.
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// A number with three significant digits and a true minus sign; what is not finite is said to be so.
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "n/a";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text =
    size >= 1000 ? Math.round(size).toLocaleString("en") : size < 0.001 ? size.toExponential(1) : size.toPrecision(3);
  return (value < 0 ? "\u2212" : "") + text;
}

// The same with its sign always in front, for weights and activations.
export function signed(value) {
  return value > 0 ? "+" + number(value) : number(value);
}

export function count(value, noun) {
  return `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`;
}

export function percent(value) {
  return value > 0 && value < 0.001 ? "less than 0.1%" : `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}%`;
}

// A token's text with line breaks, tabs and blanks at its ends made visible.
export function visible(text) {
  const shown = text.replaceAll("\r", "␍").replaceAll("\n", "↵").replaceAll("\t", "⇥");
  return shown.replace(/^ +| +$/g, (blanks) => "·".repeat(blanks.length)) || "∅";
}

// The start of a visible text, for places with little room.
export function short(text, length = 12) {
  const letters = [...visible(text)];
  return letters.length > length ? letters.slice(0, length - 1).join("") + "…" : letters.join("");
}
