// The drawing as a file of its own: the SVG with the rules of the page's style that it needs.

import { svg } from "./dom.js";

const NEEDED = /^(:root|\.drawing)/;

// The SVG `image` as text that stands alone; its colours still follow light and dark.
export function standalone(image) {
  const copy = image.cloneNode(true);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.classList.remove("focused");
  const whole = svg("g", { class: copy.getAttribute("class") }, ...copy.childNodes);
  copy.setAttribute("class", "drawing");
  copy.removeAttribute("style");
  copy.append(whole);
  const style = svg("style", {}, [...document.styleSheets].flatMap((sheet) => rulesOf(sheet.cssRules)).join("\n"));
  copy.prepend(style, svg("rect", { class: "paper", width: "100%", height: "100%", rx: 8 }));
  for (const mark of copy.querySelectorAll(".hit, title")) mark.remove();
  for (const mark of copy.querySelectorAll("[role=button]")) {
    for (const name of ["role", "tabindex", "aria-label"]) mark.removeAttribute(name);
    mark.classList.remove("lit", "chosen", "match");
  }
  return new XMLSerializer().serializeToString(copy);
}

function rulesOf(rules) {
  return [...rules].flatMap((rule) => {
    if (rule.cssRules?.length && rule.conditionText !== undefined) {
      const inner = rulesOf(rule.cssRules);
      return inner.length ? [`@media ${rule.conditionText} {${inner.join("\n")}}`] : [];
    }
    return rule.selectorText && NEEDED.test(rule.selectorText) ? [rule.cssText] : [];
  });
}

// Offers `text` as a file to save.
export function offer(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
