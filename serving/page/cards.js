// Posters: a tile with the item's picture, or its initials, and rows of cards that arrow keys walk through.

import { showPicture } from "/page/api.js";

/** An element: tag, attributes (on... are listeners, false ones are left out), children. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

function initials(title) {
  const words = title.replace(/^(the|a|an)\s+/i, "").split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  return words.slice(0, 2).map((word) => [...word][0].toUpperCase()).join("") || "?";
}

function hue(text) {
  let sum = 0;
  for (const letter of text) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  return sum;
}

/** The item's face. */
export function tile(item) {
  const made = element("span", { class: "tile", "aria-hidden": "true" });
  made.style.setProperty("--hue", hue(item.title));
  made.append(element("span", { class: "initials" }, initials(item.title)));
  if (item.image) {
    const img = element("img", { alt: "", loading: "lazy", decoding: "async" });
    img.addEventListener("load", () => {
      made.classList.add("pictured");
      made.classList.toggle("square", img.naturalWidth > 0.85 * img.naturalHeight);
    });
    img.addEventListener("error", () => img.remove());
    made.append(img);
    showPicture(img, item.item_id).catch(() => img.remove());
  }
  return made;
}

/** A card of an answer. `on` has `look` (focus, hover), `pick` (click, Enter) and `add`. */
export function card(item, { rank = null, note = "", noteKind = "", on = {} }) {
  const face = element(
    "button",
    { type: "button", class: "face", onfocus: () => on.look?.(item), onclick: () => on.pick?.(item) },
    tile(item),
    rank !== null && element("span", { class: "rank", "aria-hidden": "true" }, String(rank)),
    element("span", { class: "title" }, item.title),
    element("span", { class: "categories" }, item.categories.join(", ")),
    note && element("span", { class: `note ${noteKind}` }, note),
  );
  const add = element(
    "button",
    { type: "button", class: "add", title: "Add to the history", "aria-label": `Add ${item.title} to the history`, onclick: () => on.add?.(item) },
    "+",
  );
  const made = element("li", { class: "card", "data-item": item.item_id }, face, on.add && add);
  made.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && on.look?.(item));
  return made;
}

/** One tab stop for a list of buttons: arrows, Home and End move within it. */
export function roving(list, selector) {
  const all = () => [...list.querySelectorAll(selector)];
  const only = (chosen) => {
    for (const each of all()) {
      each.tabIndex = each === chosen ? 0 : -1;
      const beside = each.parentElement.querySelector(".add");
      if (beside) beside.tabIndex = each.tabIndex;
    }
  };
  const columns = (those) => {
    const top = those[0]?.getBoundingClientRect().top;
    const next = those.findIndex((each) => Math.abs(each.getBoundingClientRect().top - top) > 4);
    return next < 0 ? those.length : next;
  };
  list.onkeydown = (event) => {
    const those = all();
    const at = those.indexOf(event.target);
    if (at < 0) return;
    const wide = columns(those);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide, Home: -at, End: those.length - 1 - at }[event.key];
    const next = those[at + (step ?? 0)];
    if (step === undefined || !next) return;
    event.preventDefault();
    only(next);
    next.focus();
  };
  list.onfocusin = (event) => all().includes(event.target) && only(event.target);
  list.addEventListener("focusin", list.onfocusin);
  only(all()[0]);
}
