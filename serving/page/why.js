// Why an item was returned: the behaviors that each unit attended to, and the way down the tree in words.

import { element, tile } from "/page/cards.js";
import { reveal } from "/page/timeline.js";

const panel = document.getElementById("why");
const SHOWN = 5;
const UNITS = [
  ["co", "Co-GSU", "what goes together in the logs"],
  ["mm", "MM-GSU", "what looks and reads alike"],
];

/** Nothing is chosen, or nothing can be told. */
export function silent(text) {
  panel.classList.remove("open");
  panel.replaceChildren(element("p", { class: "quiet" }, text));
}

/** item with its reasons; at(position) is a past item; actions: [label, function] buttons. */
export function explain(item, { at, actions }) {
  const why = item.why;
  panel.classList.add("open");
  panel.replaceChildren(
    element("button", { type: "button", class: "close icon-button", "aria-label": "Close", onclick: () => panel.classList.remove("open") }, "×"),
    element(
      "div",
      { class: "why-head" },
      tile(item),
      element("div", {}, element("h3", {}, item.title), element("p", { class: "quiet" }, item.categories.join(", "))),
    ),
    element("div", { class: "why-actions" }, ...actions.map(([label, go]) => element("button", { type: "button", onclick: go }, label))),
    ...(why ? UNITS.map((unit) => behaviors(why, unit, at)) : [element("p", { class: "quiet" }, "This answer comes without reasons.")]),
    why && path(why.path),
  );
}

function behaviors(why, [unit, name, told], at) {
  const found = why[unit];
  const heaviest = Math.max(...found.map((each) => each.weight), 1e-9);
  return element(
    "section",
    { class: `unit ${unit}`, "aria-label": `${name}: ${told}` },
    element("h4", {}, element("span", { class: `mark ${unit}`, "aria-hidden": "true" }), ` ${name}`, element("span", { class: "quiet" }, ` · ${told}`)),
    found.length > SHOWN && element("p", { class: "quiet" }, `Its ${SHOWN} strongest hold ${Math.round(100 * found.slice(0, SHOWN).reduce((sum, each) => sum + each.weight, 0))} % of its attention.`),
    found.length
      ? element("ol", {}, ...found.slice(0, SHOWN).map((each) => behavior(each, heaviest, at)))
      : element("p", { class: "quiet" }, "It picked nothing here."),
  );
}

function behavior(each, heaviest, at) {
  const bar = element("span", { class: "bar", "aria-hidden": "true" }, element("span"));
  bar.firstChild.style.setProperty("--share", each.weight / heaviest);
  return element(
    "li",
    {},
    element(
      "button",
      { type: "button", "data-position": each.position, onclick: () => reveal(each.position, { blink: true }) },
      tile(at(each.position) ?? { item_id: each.item_id, title: each.title, image: false }),
      element("span", { class: "title" }, each.title),
      bar,
      element("span", { class: "share" }, `${(100 * each.weight).toFixed(each.weight < 0.1 ? 1 : 0)} %`),
    ),
  );
}

/** Nodes that are called as the one above are one step. */
function path(steps) {
  const told = [];
  for (const step of steps) {
    const label = step.level === 0 ? "everything" : step.label;
    if (told.at(-1)?.label === label) told.at(-1).items = step.items;
    else told.push({ label, items: step.items });
  }
  return element(
    "section",
    { class: "path", "aria-label": "The way down the tree" },
    element("h4", {}, "The way down the tree"),
    element("ol", {}, ...told.map(({ label, items }) =>
      element("li", {}, element("span", {}, label), items > 1 && element("span", { class: "quiet" }, ` ${items.toLocaleString("en")}`)))),
  );
}
