// The service's endpoints. A token, where one is wanted, is asked for once and kept for the life of the tab.

const KEY = "miss-token";
let token = sessionStorage.getItem(KEY) ?? "";
let asking = null;

/** What the service said instead of an answer: one sentence. */
export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

function askForToken() {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("token");
    dialog.addEventListener("close", () => {
      token = document.getElementById("token-text").value;
      sessionStorage.setItem(KEY, token);
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token) headers.set("authorization", `Bearer ${token}`);
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service does not answer; is it running?");
  }
  if (answer.status === 401) {
    await askForToken();
    return send(path, options);
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, told.detail ?? `The service answered ${answer.status}.`);
  }
  return answer;
}

export async function get(path, wanted = {}, signal) {
  const query = new URLSearchParams(wanted).toString();
  return (await send(query ? `${path}?${query}` : path, { signal })).json();
}

export async function post(path, body, signal) {
  const headers = { "content-type": "application/json" };
  return (await send(path, { method: "POST", headers, body: JSON.stringify(body), signal })).json();
}

/** Paths that this service has, so that nothing is offered that it lacks. */
export async function endpoints() {
  return new Set(Object.keys((await get("/openapi.json")).paths));
}

const imagePath = (itemId) => `/v1/items/${encodeURIComponent(itemId)}/image`;

/** Show an item's picture in an <img> or an <image>; one that wants a token cannot be asked for by an address alone. */
export async function showPicture(img, itemId) {
  const from = (address) => img.setAttribute(img instanceof SVGElement ? "href" : "src", address);
  if (!token) return from(imagePath(itemId));
  const address = URL.createObjectURL(await (await send(imagePath(itemId))).blob());
  img.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
  from(address);
}
