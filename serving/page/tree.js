// The index tree as a picture: upper levels folded, the beam as ribbons, the path to the chosen item opened. Zooms, pans, has keys.

import { post, showPicture } from "/page/api.js";
import { BOX, ROW, layout, lines, ribbon } from "/page/treelayout.js";

const SVG = "http://www.w3.org/2000/svg";
const FIRST_LEVELS = 3;
const FACE = 28;
const canvas = document.getElementById("canvas");
const said = document.getElementById("tree-said");

let nodes = new Map();
let open = new Set();
let path = [];
let asked = {};
let view = { x: 0, y: 0, k: 1 };
let size = { width: 1, height: 1 };
let focus = 0;
let stage = null;
let newestTree = 0;
let newestPath = 0;
let loaded = Promise.resolve();

function draw(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  made.append(...children.filter(Boolean));
  return made;
}

function text(tag, words, attributes = {}) {
  const made = draw(tag, attributes);
  made.textContent = words;
  return made;
}

function drawFace(itemId, attributes) {
  const made = draw("image", attributes);
  showPicture(made, itemId).catch(() => made.remove());
  return made;
}

const keep = (told) => told.nodes.forEach((each) => nodes.set(each.node, { ...nodes.get(each.node), ...each }));
const known = (node) => [...nodes.values()].some((each) => each.parent === node);

/** Ask for the upper levels, as the search of `who` ({user} or {history}) lies in them. */
export function showTree(who) {
  loaded = load(who);
  return loaded;
}

async function load(who) {
  const mine = ++newestTree;
  newestPath += 1;
  const told = await post("/v1/tree", { node: 0, levels: FIRST_LEVELS, ...who });
  if (mine !== newestTree) return;
  asked = who;
  nodes = new Map();
  keep(told);
  document.getElementById("tree").hidden = false;
  const beam = nodes.get(0)?.beam;
  said.textContent = `${told.items.toLocaleString("en")} items, ${told.depth} levels` +
    (beam === undefined ? "" : `; ribbons are the beam's best ${beam.toLocaleString("en")} leaves`);
  path = [];
  fold();
}

/** Open the way to an item: steps of its reason, or null for none. */
export async function openPath(steps) {
  const mine = ++newestPath;
  await loaded.catch(() => {}); // whoever asked for the tree is told
  for (const step of steps ?? []) {
    if (mine !== newestPath) return;
    if (!known(step.node) && step.items > 1) keep(await post("/v1/tree", { ...asked, node: step.node, levels: 1 }));
  }
  if (mine !== newestPath) return;
  path = steps ? steps.map((step) => step.node) : [];
  open = upper(path.length ? 2 : FIRST_LEVELS);
  path.forEach((node) => open.add(node));
  render();
  fit();
}

const upper = (levels = FIRST_LEVELS) => new Set([...nodes.values()].filter((each) => each.level < (innerWidth < 700 ? 2 : levels) && known(each.node)).map((each) => each.node));

function fold() {
  open = upper();
  render();
  fit();
}

async function toggle(node) {
  const each = nodes.get(node);
  if (!each?.children) return;
  if (open.has(node)) open.delete(node);
  else {
    if (!known(node)) keep(await post("/v1/tree", { node, levels: 1, ...asked }));
    open.add(node);
  }
  focus = node;
  render();
  stage.querySelector(`[data-node="${node}"]`)?.focus({ preventScroll: true });
}

function box(each, most) {
  const label = each.node === 0 ? "everything" : each.label;
  const face = each.typical[0];
  const left = face ? FACE + 11 : 10;
  const count = each.item_id ? "" : `${each.items.toLocaleString("en")} items`;
  const beam = each.beam ? `, ${each.beam} of the beam` : "";
  const kinds = { "on-path": path.includes(each.node), cut: each.beam === 0, leaf: each.item_id };
  const written = lines(label, Math.floor((BOX.width - left - 4) / 5.9));
  const group = draw(
    "g",
    {
      transform: `translate(${each.x},${each.y})`,
      class: ["node", ...Object.keys(kinds).filter((kind) => kinds[kind])].join(" "),
      role: "treeitem",
      tabindex: each.node === focus ? 0 : -1,
      "data-node": each.node,
      "aria-level": each.level + 1,
      "aria-expanded": each.children ? String(each.shown.length > 0) : null,
      "aria-label": `${label}${count && `, ${count}`}${beam}`,
    },
    text("title", `${label}${count && ` (${count}${beam})`}`),
    draw("rect", { class: "plate", width: BOX.width, height: BOX.height, rx: 9, y: -BOX.height / 2 }),
    face && drawFace(face, { x: 5, y: -BOX.height / 2 + 4, width: FACE, height: BOX.height - 8, preserveAspectRatio: "xMidYMid slice" }),
    ...written.map((line, row) => text("text", line, { class: "label", x: left, y: (count ? -8 : 4 - 6 * (written.length - 1)) + 12 * row })),
    count && text("text", `${each.items.toLocaleString("en")}${each.children && !each.shown.length ? " ›" : ""}`, { class: "count", x: left, y: 18 }),
    each.beam && !each.item_id && text("text", String(each.beam), { class: "count held", x: BOX.width - 7, y: 18, "text-anchor": "end" }),
  );
  group.addEventListener("click", () => moved || toggle(each.node));
  group.style.setProperty("--beam", most ? (each.beam ?? 0) / most : 0);
  return group;
}

function render() {
  const told = layout(nodes, open);
  size = { width: told.width, height: told.height };
  if (!told.placed.some((each) => each.node === focus)) focus = path.at(-1) ?? 0;
  if (!told.placed.some((each) => each.node === focus)) focus = 0;
  const most = nodes.get(0)?.beam ?? 0;
  const links = told.placed.flatMap((each) => each.shown.map((child) => {
    const share = most ? (child.beam ?? 0) / most : 0;
    const onPath = path.includes(child.node);
    const link = draw("path", { d: ribbon(each.y, child.y, each.x + BOX.width, child.x), class: `link${onPath ? " on-path" : ""}${most && !child.beam ? " cut" : ""}` });
    link.style.setProperty("--wide", `${share ? 1.5 + 20 * share ** 0.75 : 1}px`);
    return link;
  }));
  links.sort((a, b) => a.classList.contains("on-path") - b.classList.contains("on-path"));
  stage = draw("g", { class: "stage" }, draw("g", { class: "links", "aria-hidden": "true" }, ...links), ...told.placed.map((each) => box(each, most)));
  const picture = draw("svg", { role: "tree", "aria-label": "The index tree; arrow keys walk, Enter folds and unfolds" }, stage);
  const within = canvas.contains(document.activeElement);
  canvas.replaceChildren(picture);
  if (within) stage.querySelector(`[data-node="${focus}"]`)?.focus({ preventScroll: true });
  picture.addEventListener("keydown", keys);
  move();
}

function keys(event) {
  const node = Number(event.target.closest?.("[data-node]")?.dataset.node ?? NaN);
  if (Number.isNaN(node)) return;
  const shown = [...stage.querySelectorAll("[data-node]")].map((each) => nodes.get(Number(each.dataset.node)));
  const here = nodes.get(node);
  const row = shown.filter((each) => each.level === here.level).sort((a, b) => a.node - b.node);
  const at = row.findIndex((each) => each.node === node);
  const next = {
    ArrowLeft: nodes.get(here.parent),
    ArrowRight: shown.filter((each) => each.parent === node).sort((a, b) => path.includes(b.node) - path.includes(a.node))[0],
    ArrowUp: row[at - 1],
    ArrowDown: row[at + 1],
  }[event.key];
  if (event.key === "Enter" || event.key === " ") toggle(node);
  else if (event.key === "+" || event.key === "=") zoom(1.25);
  else if (event.key === "-") zoom(0.8);
  else if (event.key === "0") fit();
  else if (!event.key.startsWith("Arrow")) return;
  event.preventDefault();
  if (!next) return;
  const to = stage.querySelector(`[data-node="${next.node}"]`);
  for (const each of stage.querySelectorAll("[tabindex='0']")) each.setAttribute("tabindex", -1);
  to.setAttribute("tabindex", 0);
  focus = next.node;
  to.focus({ preventScroll: true });
  bring(to);
}

function move() {
  stage?.setAttribute("transform", `translate(${view.x},${view.y}) scale(${view.k})`);
}

/** All of it, unless it could not be read then: the end of the path, or the root, with what is around it. */
function fit() {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width || !stage) return;
  const margin = 14;
  const whole = Math.min((width - 2 * margin) / size.width, (height - 2 * margin) / size.height, 1.2);
  const k = Math.max(whole, width < 700 ? 0.85 : 0.62);
  view = { k, x: margin, y: (height - size.height * k) / 2 + (ROW / 2) * k };
  move();
  if (k > whole) bring(stage.querySelector(`[data-node="${path.at(-1) ?? 0}"]`));
}

function bring(to) {
  const inner = to.getBoundingClientRect();
  const outer = canvas.getBoundingClientRect();
  const margin = 12;
  view.x += Math.max(outer.left + margin - inner.left, 0) || Math.min(outer.right - margin - inner.right, 0);
  view.y += Math.max(outer.top + margin - inner.top, 0) || Math.min(outer.bottom - margin - inner.bottom, 0);
  move();
}

function zoom(by, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const k = Math.min(4, Math.max(0.15, view.k * by));
  view = { k, x: x - ((x - view.x) * k) / view.k, y: y - ((y - view.y) * k) / view.k };
  move();
}

// Fingers and mouse: one drags, two zoom; a wheel zooms with Ctrl, so that the page still scrolls.
const fingers = new Map();
let moved = false;
canvas.addEventListener("pointerdown", (event) => {
  fingers.set(event.pointerId, event);
  moved = false;
});
canvas.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const others = [...fingers.values()].filter((each) => each.pointerId !== event.pointerId);
  if (others.length) {
    const apart = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
    const outer = canvas.getBoundingClientRect();
    zoom(apart(event, others[0]) / Math.max(apart(before, others[0]), 1), others[0].clientX - outer.left, others[0].clientY - outer.top);
  } else if (moved || Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY) > 4) {
    if (!moved) canvas.setPointerCapture(event.pointerId);
    moved = true;
    view.x += event.clientX - before.clientX;
    view.y += event.clientY - before.clientY;
    move();
  } else return;
  fingers.set(event.pointerId, event);
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => {
  fingers.delete(event.pointerId);
  setTimeout(() => { moved = false; });
});
canvas.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  const outer = canvas.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY / 300), event.clientX - outer.left, event.clientY - outer.top);
}, { passive: false });
document.getElementById("tree-in").addEventListener("click", () => zoom(1.25));
document.getElementById("tree-out").addEventListener("click", () => zoom(0.8));
document.getElementById("tree-fit").addEventListener("click", fit);
document.getElementById("tree-fold").addEventListener("click", fold);
addEventListener("resize", fit);
