// Whose history is looked at: a type-ahead over known users.

import { get } from "/page/api.js";
import { element } from "/page/cards.js";

const WAIT_MS = 120;

/** Calls `chosen(user)`; `say(text)` tells what is going on. */
export function people({ chosen, say }) {
  const input = document.getElementById("user");
  const list = document.getElementById("users");
  let options = [];
  let at = -1;
  let timer = 0;
  let asked = 0;

  const open = (yes) => {
    list.hidden = !yes || !options.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    if (list.hidden) input.removeAttribute("aria-activedescendant");
  };
  const point = (to) => {
    at = to;
    options.forEach((option, index) => option.setAttribute("aria-selected", String(index === at)));
    if (at >= 0) {
      input.setAttribute("aria-activedescendant", options[at].id);
      options[at].scrollIntoView({ block: "nearest" });
    }
  };
  const take = (user) => {
    input.value = user;
    open(false);
    chosen(user);
  };
  const fill = async () => {
    const mine = ++asked;
    const told = await get("/v1/users", { query: input.value.trim(), limit: 12 });
    if (mine !== asked) return;
    options = told.users.map((user, index) =>
      element("li", { id: `user-${index}`, role: "option", "aria-selected": "false", onpointerdown: (event) => { event.preventDefault(); take(user); } }, user));
    list.replaceChildren(...options);
    at = -1;
    open(document.activeElement === input);
    if (!told.users.length && input.value.trim()) say(`No known user's id begins with “${input.value.trim()}”.`);
  };

  input.addEventListener("input", () => {
    clearTimeout(timer);
    options = []; // what was listed is not what is typed now
    open(false);
    timer = setTimeout(() => fill().catch((error) => say(error.message)), WAIT_MS);
  });
  input.addEventListener("focus", () => fill().catch((error) => say(error.message)));
  input.addEventListener("blur", () => open(false));
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") open(false);
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) open(true);
      if (options.length) point((at + (event.key === "ArrowDown" ? 1 : -1) + options.length) % options.length);
    }
    if (event.key === "Enter") {
      event.preventDefault();
      const user = at >= 0 ? options[at].textContent : input.value.trim();
      if (user) take(user);
    }
  });

  return {
    show: (user) => { input.value = user; },
    focus: () => input.focus(),
    async anybody() {
      const first = await get("/v1/users", { limit: 200 });
      if (!first.users.length) throw new Error("This bundle holds no users; build a history by choosing items.");
      take(first.users[Math.floor(Math.random() * first.users.length)]);
    },
  };
}
