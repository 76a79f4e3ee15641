// The page: whose history, what is recommended after it, why, and how the tree was walked. What the service lacks is not shown.

import { endpoints, get, post } from "/page/api.js";
import { card, element, roving } from "/page/cards.js";
import { people } from "/page/people.js";
import { search } from "/page/search.js";
import { light, showHistory } from "/page/timeline.js";
import { openPath, showTree } from "/page/tree.js";
import { explain, silent } from "/page/why.js";

const K = 18;
const LONGEST = 2000;
const LOOK_MS = 110;
const by = (id) => document.getElementById(id);
const TABS = ["recommend", "compare", "search"];

/** user: whose history it was; own: whether it was changed here; from: position of history[0] in the whole. */
const state = { user: null, own: false, history: [], from: 0, tab: "recommend", active: null, offered: [], has: new Set() };
let newest = 0;
let looking = 0;
let found = null;
let finder = null;

function trouble(error) {
  if (error?.name === "AbortError") return;
  by("trouble").textContent = error?.message ?? String(error);
  by("trouble").hidden = false;
}
const tried = (go) => (...given) => Promise.resolve(go(...given)).catch(trouble);

/** What names this history to the service: the user where it is as stored. */
const who = () => (state.own || !state.user ? { history: state.history.map((item) => item.item_id) } : { user: state.user });
const at = (position) => state.history[position - state.from];

// -- the history ---------------------------------------------------------------------------------------------------------

async function chooseUser(user) {
  by("trouble").hidden = true;
  const told = await get(`/v1/users/${encodeURIComponent(user)}`, { limit: LONGEST });
  people_.show(user);
  Object.assign(state, { user, own: false, history: told.history, from: told.behaviors - told.history.length });
  await historyChanged();
}

async function buildOwn() {
  people_.show("");
  Object.assign(state, { user: null, own: true, history: [], from: 0 });
  await historyChanged();
}

async function add(item) {
  // a history that was cut short at its old end is sent as it is shown
  Object.assign(state, { own: true, history: [...state.history, item], from: 0 });
  await historyChanged();
}

async function remove(index) {
  Object.assign(state, { own: true, history: state.history.filter((_, place) => place !== index), from: 0 });
  await historyChanged();
}

async function historyChanged() {
  const { history, user, own, from } = state;
  showHistory(history, {
    from,
    removed: tried(remove),
    empty: "Nothing yet. Choose something below that you like, and again: recommendations follow what you chose.",
  });
  const count = `${(history.length + from).toLocaleString("en")} behavior${history.length + from === 1 ? "" : "s"}`;
  by("timeline-said").textContent = history.length ? `${count}, newest on the right` : "";
  by("who-said").textContent = !own ? "" : user ? `The history of ${user}, changed here` : "A history of your own";
  location.hash = user && !own ? `user=${encodeURIComponent(user)}` : "";
  state.active = null;
  if (state.tab === "search") chooseTab("recommend", false);
  await Promise.all([offer(), state.has.has("/v1/tree") && showTree(history.length ? who() : {})]);
}

// -- what is offered -----------------------------------------------------------------------------------------------------

async function offer() {
  const mine = ++newest;
  const shown = by("shown");
  shown.setAttribute("aria-busy", "true");
  try {
    if (state.tab === "search") {
      if (found) showFound();
      return;
    }
    const empty = !state.history.length;
    const answer = state.tab === "compare" && !empty ? await post("/v1/compare", { k: 12, ...who() }) : await recommended(empty);
    if (mine !== newest) return;
    by("trouble").hidden = true;
    if (state.tab === "compare" && !empty) showCompared(answer);
    else {
      by("offer-said").textContent = empty
        ? "What most people chose. Click to start a history of your own."
        : answer.popular ? "Nothing is known of this user, so this is what is popular." : "Point at one, or move to it, to see why.";
      showItems(shown, answer.items, { start: empty });
    }
  } finally {
    if (mine === newest) shown.removeAttribute("aria-busy");
  }
}

async function recommended(empty) {
  if (empty) return { popular: true, items: (await get("/v1/items", { limit: 2 * K })).items };
  return post("/v1/recommend", { k: Math.min(K, state.beam ?? K), explain: state.explains, ...who() });
}

function cards(items, { start = false, notes = () => ({}) } = {}) {
  const on = start ? { pick: tried(add) } : { look: lookSoon, pick: (item) => look(item, true), add: tried(add) };
  const list = element("ol", { class: "cards" }, ...items.map((item, index) => card(item, { rank: start ? null : index + 1, on, ...notes(item, index) })));
  roving(list, ".face");
  return list;
}

function showItems(shown, items, options) {
  state.offered = items;
  shown.replaceChildren(cards(items, options));
  if (!items.length) by("offer-said").textContent = "There is nothing left to offer.";
  if (options.start || !items[0]?.why) {
    silent(options.start ? "Choose a user or build a history; then this says why each item is recommended." : "Choose an item to see more of it.");
    light(null);
  } else look(items[0], false);
}

function showCompared({ champion, challenger, shared, said }) {
  const rank = (items) => new Map(items.map((item, index) => [item.item_id, index]));
  const [ours, theirs] = [rank(champion.items), rank(challenger?.items ?? [])];
  const moved = (mine, other) => (item) => {
    const before = other.get(item.item_id);
    if (before === undefined) return { note: "only here", noteKind: "new" };
    const by = before - mine.get(item.item_id);
    return { note: by ? `${by > 0 ? "▲" : "▼"} ${Math.abs(by)}` : "same place", noteKind: by > 0 ? "up" : by < 0 ? "down" : "" };
  };
  const column = (title, side, notes) =>
    element("section", { class: "side", "aria-label": title }, element("h3", {}, title, element("span", { class: "quiet" }, ` · version ${side.model_version}`)), cards(side.items, { notes }));
  by("offer-said").textContent = challenger ? `${shared} of ${champion.items.length} are in both.` : "";
  state.offered = champion.items;
  by("shown").replaceChildren(
    element(
      "div",
      { class: "sides" },
      column("Champion", champion, challenger ? moved(ours, theirs) : () => ({})),
      challenger
        ? column("Challenger", challenger, moved(theirs, ours))
        : element("section", { class: "side none", "aria-label": "Challenger" }, element("h3", {}, "Challenger"), element("p", {}, `${said[0].toUpperCase()}${said.slice(1)}.`)),
    ),
  );
  silent("Choose an item to see more of it.");
  light(null);
}

function showFound() {
  by("offer-said").textContent = `${found.items.length} found for ${found.what}, most alike first.`;
  showItems(by("shown"), found.items, {});
}

// -- why -----------------------------------------------------------------------------------------------------------------

function lookSoon(item) {
  clearTimeout(looking);
  looking = setTimeout(() => look(item, false), LOOK_MS);
}

async function look(item, meant) {
  clearTimeout(looking);
  if (state.active === item && !meant) return;
  state.active = item;
  for (const each of document.querySelectorAll(".card.active")) each.classList.remove("active");
  for (const each of document.querySelectorAll(`.card[data-item="${CSS.escape(item.item_id)}"]`)) each.classList.add("active");
  const actions = [["Add to the history", tried(() => add(item))]];
  if (state.has.has("/v1/similar")) actions.push(["More like this", tried(() => similar(item))]);
  explain(item, { at, actions });
  by("why").classList.toggle("open", meant);
  light(item.why ?? null);
  if (state.has.has("/v1/tree")) await openPath(item.why?.path ?? null).catch(trouble);
}

async function similar(item) {
  const answer = await post("/v1/similar", { item_id: item.item_id, k: K });
  found = { items: answer.items, what: `what is like ${item.title}` };
  chooseTab("search");
}

// -- tabs, links, colours ------------------------------------------------------------------------------------------------

function chooseTab(tab, show = true) {
  state.tab = tab;
  for (const each of TABS) {
    const button = by(`tab-${each}`);
    button.setAttribute("aria-selected", String(each === tab));
    button.tabIndex = each === tab ? 0 : -1;
    if (each === tab) {
      button.hidden = false;
      by("shown").setAttribute("aria-labelledby", button.id);
    }
  }
  finder?.showCrop(tab === "search");
  if (show) tried(offer)();
}

function tabs() {
  for (const each of TABS) by(`tab-${each}`).addEventListener("click", () => chooseTab(each));
  by("tab-recommend").parentElement.addEventListener("keydown", (event) => {
    const there = TABS.filter((each) => !by(`tab-${each}`).hidden);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = there[(there.indexOf(state.tab) + step + there.length) % there.length];
    chooseTab(next);
    by(`tab-${next}`).focus();
  });
}

function colours() {
  const KINDS = { "": ["◐", "as the system has them"], light: ["☀", "light"], dark: ["☾", "dark"] };
  const button = by("theme");
  let kind = localStorage.getItem("miss-colours") ?? "";
  const apply = () => {
    document.documentElement.dataset.theme = kind;
    const [sign, name] = KINDS[kind] ?? KINDS[""];
    button.textContent = sign;
    button.setAttribute("aria-label", `Colours: ${name}`);
    button.title = `Colours: ${name}`;
  };
  button.addEventListener("click", () => {
    const kinds = Object.keys(KINDS);
    kind = kinds[(kinds.indexOf(kind) + 1) % kinds.length];
    localStorage.setItem("miss-colours", kind);
    apply();
  });
  apply();
}

const PLACES = { dagster: "Dagster", mlflow: "MLflow", mlflow_version: "This version", dagster_run: "Its run" };

async function links() {
  const told = await get("/v1/links");
  for (const [name, label] of Object.entries(PLACES)) {
    if (!/^https?:\/\//.test(told[name] ?? "")) continue;
    by("links").append(element("a", { href: told[name], target: "_blank", rel: "noopener noreferrer" }, label));
  }
}

// -- begin ---------------------------------------------------------------------------------------------------------------

const people_ = people({ chosen: tried(chooseUser), say: (text) => { by("who-said").textContent = text; } });

async function begin() {
  colours();
  tabs();
  by("any-user").addEventListener("click", tried(() => people_.anybody()));
  by("build").addEventListener("click", tried(buildOwn));
  state.has = await endpoints();
  const model = await get("/v1/model");
  state.beam = model.beam;
  state.explains = model.explains;
  by("model").replaceChildren(
    `${model.dataset ?? "a catalogue"} · version ${model.model_version || "–"} · ${model.items.toLocaleString("en")} items · ${model.users.toLocaleString("en")} users`,
    model.simulated ? element("span", { class: "tag", title: "The histories of this catalogue are made up" }, "simulated") : "",
  );
  by("any-user").hidden = !model.users;
  by("tab-compare").hidden = !state.has.has("/v1/compare");
  if (state.has.has("/v1/search")) {
    finder = search({
      wanted: () => { by("trouble").hidden = true; by("tab-search").hidden = false; },
      found: (answer, what) => { found = { items: answer.items, what }; chooseTab("search"); },
      say: (text) => trouble(new Error(text)),
    });
  }
  if (state.has.has("/v1/links")) links().catch(trouble);
  const user = new URLSearchParams(location.hash.slice(1)).get("user");
  if (user) await chooseUser(user);
  else await buildOwn();
  document.body.dataset.ready = "yes";
}

tried(begin)();
