// The history as posters from the oldest to the newest, and above it all of it at once, where marks show what lies out of sight.

import { element, roving, tile } from "/page/cards.js";

const strip = document.getElementById("strip");
const overview = document.getElementById("overview");
const percent = (share) => `${Math.max(1, Math.round(100 * share))} %`;
let shown = [];
let offset = 0;
let marks = [];

/** history: items oldest first; from: position of the first of them in the whole; removed(position) where it may be edited. */
export function showHistory(history, { from = 0, removed = null, empty = "" }) {
  shown = history;
  offset = from;
  strip.replaceChildren(
    ...history.map((item, index) =>
      element(
        "li",
        { "data-position": index + from, "data-item": item.item_id },
        element(
          "button",
          {
            type: "button",
            class: "face",
            title: removed ? `${item.title} — Delete takes it out` : item.title,
            "aria-label": `${index + from + 1}: ${item.title}`,
            onkeydown: (event) => removed && (event.key === "Delete" || event.key === "Backspace") && removed(index),
          },
          tile(item),
          element("span", { class: "title" }, item.title),
        ),
        removed && element("button", { type: "button", class: "remove", tabindex: "-1", "aria-label": `Take ${item.title} out`, onclick: () => removed(index) }, "×"),
        element("span", { class: "lit", "aria-hidden": "true" }),
      )),
  );
  if (!history.length) strip.append(element("li", { class: "empty" }, empty));
  roving(strip, "li > .face");
  light(null);
  strip.scrollLeft = strip.scrollWidth;
  follow();
}

/** Light up what each unit attended to for an item; null puts the lights out. */
export function light(why, { scroll = true } = {}) {
  marks = [];
  strip.classList.toggle("lighting", Boolean(why));
  for (const row of strip.querySelectorAll("li.co, li.mm")) row.classList.remove("co", "mm");
  for (const lit of strip.querySelectorAll(".lit")) lit.replaceChildren();
  for (const [unit, found] of [["co", why?.co ?? []], ["mm", why?.mm ?? []]]) {
    for (const behavior of found) {
      marks.push({ ...behavior, unit });
      const row = strip.children[behavior.position - offset];
      if (!row) continue;
      row.classList.add(unit);
      row.querySelector(".lit").append(element("span", { class: `badge ${unit}` }, element("span", { class: `mark ${unit}` }), percent(behavior.weight)));
    }
  }
  if (scroll && marks.length) reveal(marks.reduce((best, each) => (each.weight > best.weight ? each : best)).position);
  drawOverview();
}

/** Scroll the strip, and nothing else, until a position is in its middle. */
export function reveal(position, { blink = false } = {}) {
  const row = strip.children[position - offset];
  if (!row) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  strip.scrollTo({ left: row.offsetLeft - (strip.clientWidth - row.offsetWidth) / 2, behavior: still ? "instant" : "smooth" });
  strip.querySelector(".blink")?.classList.remove("blink");
  if (blink) row.classList.add("blink");
}

function drawOverview() {
  const last = Math.max(shown.length, 1);
  const heaviest = Math.max(...marks.map((mark) => mark.weight), 1e-9);
  overview.replaceChildren(
    element("span", { class: "axis" }),
    element("span", { class: "window" }),
    ...marks.filter((mark) => mark.position >= offset).map((mark) => {
      const tick = element("span", { class: `tick ${mark.unit}`, onclick: () => reveal(mark.position, { blink: true }) }, element("span", { class: `mark ${mark.unit}` }));
      tick.style.setProperty("--at", (mark.position - offset + 0.5) / last);
      tick.style.setProperty("--tall", 0.25 + 0.75 * mark.weight / heaviest);
      return tick;
    }),
  );
  overview.hidden = !shown.length;
  follow();
}

function follow() {
  const part = overview.querySelector(".window");
  if (!part || !strip.scrollWidth) return;
  part.style.setProperty("--at", strip.scrollLeft / strip.scrollWidth);
  part.style.setProperty("--wide", Math.min(1, strip.clientWidth / strip.scrollWidth));
}

strip.addEventListener("scroll", follow, { passive: true });
addEventListener("resize", follow);
overview.addEventListener("click", (event) => {
  if (event.target.closest(".tick")) return;
  const box = overview.getBoundingClientRect();
  reveal(offset + Math.floor(((event.clientX - box.left) / box.width) * shown.length));
});
