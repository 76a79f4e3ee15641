// A picture to search with, and the box drawn on it: with a pointer, or with arrow keys on the box and its corner.

import { element } from "/page/cards.js";

const LONGEST = 640;
const place = document.getElementById("crop");

/** Read a picture file, made small enough for one request. Returns {data: base64 JPEG, url, width, height}. */
export async function readPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error("That is not a picture that this browser can read.");
  }
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = element("canvas", { width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)) });
  const paint = canvas.getContext("2d");
  paint.fillStyle = "#fff";
  paint.fillRect(0, 0, canvas.width, canvas.height);
  paint.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return { data: btoa(text), url: URL.createObjectURL(blob), width: canvas.width, height: canvas.height };
}

/** Show a picture with a box; changed() is called when a box was drawn. Returns {box(): fractions or null, close()}. */
export function crop(picture, { changed, closed, weights }) {
  let box = null;
  const frame = element("div", { class: "crop-frame" }, element("img", { src: picture.url, alt: "The picture that is searched with", draggable: "false" }));
  const outline = element("div", { class: "crop-box", tabindex: "0", role: "group", "aria-label": "Part of the picture that counts; arrow keys move it, with Shift they change its size", hidden: true });
  frame.append(outline);
  const whole = element("button", { type: "button", onclick: () => { set(null); changed(); } }, "Whole picture");
  const part = element("button", { type: "button", onclick: () => { set([0.2, 0.2, 0.8, 0.8]); outline.focus(); changed(); } }, "Draw a box");
  const mix = element("input", { type: "range", min: 0, max: 100, value: 50, id: "mix", onchange: () => changed() });
  place.replaceChildren(
    frame,
    element(
      "div",
      { class: "crop-tools" },
      element("p", { class: "quiet" }, "Draw a box on the picture to search for that part of it alone."),
      element("div", { class: "row" }, part, whole, element("button", { type: "button", onclick: () => { close(); closed(); } }, "Without the picture")),
      weights && element("label", { class: "mix", for: "mix" }, "text", mix, "picture"),
    ),
  );
  place.hidden = false;

  function set(to) {
    box = to;
    outline.hidden = !to;
    frame.classList.toggle("boxed", Boolean(to));
    if (to) ["left", "top", "right", "bottom"].forEach((side, index) => outline.style.setProperty(`--${side}`, to[index]));
  }
  const fraction = (event) => {
    const outer = frame.getBoundingClientRect();
    return [(event.clientX - outer.left) / outer.width, (event.clientY - outer.top) / outer.height].map((each) => Math.min(1, Math.max(0, each)));
  };
  let from = null;
  frame.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    from = fraction(event);
    frame.setPointerCapture(event.pointerId);
  });
  frame.addEventListener("pointermove", (event) => {
    if (!from) return;
    const to = fraction(event);
    set([Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])]);
  });
  frame.addEventListener("pointerup", () => {
    if (!from) return;
    from = null;
    if (box && (box[2] - box[0] < 0.03 || box[3] - box[1] < 0.03)) set(null);
    changed();
  });
  let timer = 0;
  outline.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || !box) return;
    event.preventDefault();
    const [dx, dy] = step.map((each) => each * 0.03);
    const moved = event.shiftKey ? [box[0], box[1], box[2] + dx, box[3] + dy] : [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy];
    if (moved[0] < 0 || moved[1] < 0 || moved[2] > 1.0001 || moved[3] > 1.0001 || moved[2] - moved[0] < 0.05 || moved[3] - moved[1] < 0.05) return;
    set(moved.map((each) => Math.min(1, each)));
    clearTimeout(timer);
    timer = setTimeout(changed, 300);
  });
  function close() {
    URL.revokeObjectURL(picture.url);
    place.hidden = true;
    place.replaceChildren();
  }
  return { box: () => box, mix: () => mix.value / 100, close };
}
