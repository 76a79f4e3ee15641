// Search by text, by a picture that was chosen or dropped, by a part of it, or by a mix.

import { post } from "/page/api.js";
import { crop, readPicture } from "/page/crop.js";

const form = document.getElementById("search");
const text = document.getElementById("search-text");
const file = document.getElementById("search-file");

/** found(answer, what) gets what was found; say(text) tells what went wrong; wanted() is called when a search begins. */
export function search({ found, say, wanted }) {
  let picture = null;
  let shown = null;
  let newest = 0;

  async function go() {
    const words = text.value.trim();
    if (!words && !picture) return text.focus();
    const mine = ++newest;
    wanted();
    const body = { k: 24 };
    if (words) body.text = words;
    if (picture) body.image = picture.data;
    if (picture && shown?.box()) body.box = shown.box();
    if (picture && words && shown) body.weights = { text: 2 * (1 - shown.mix()), image: 2 * shown.mix() }; // 1 each is as learnt
    try {
      const answer = await post("/v1/search", body);
      if (mine === newest) found(answer, [words && `“${words}”`, picture && (body.box ? "part of a picture" : "a picture")].filter(Boolean).join(" and "));
    } catch (error) {
      if (mine === newest) say(error.message);
    }
  }

  async function take(chosen) {
    try {
      picture = await readPicture(chosen);
    } catch (error) {
      return say(error.message);
    }
    shown?.close();
    shown = crop(picture, { weights: true, changed: go, closed: () => { picture = null; shown = null; if (text.value.trim()) go(); } });
    go();
  }

  form.hidden = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go();
  });
  file.addEventListener("change", () => {
    if (file.files[0]) take(file.files[0]);
    file.value = "";
  });
  for (const kind of ["dragover", "dragenter"]) addEventListener(kind, (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    const dropped = event.dataTransfer?.files[0];
    if (!dropped) return;
    event.preventDefault();
    take(dropped);
  });
  return { showCrop: (yes) => { document.getElementById("crop").hidden = !(yes && shown); } };
}
