// A picture whose painted part is filled in by the model.

import { attempt, dropZone, labelled, make } from "../elements";
import type { Page } from "../main";
import type { Picture } from "../model";
import { canvasOf, fromFile, show } from "../pictures";
import { chosenPicture, classChoice } from "./shared";

const COUNT = 4;

/** Parts that are erased by a button: left, top, right and bottom as shares of the picture. */
const PARTS: Record<string, [number, number, number, number]> = {
  "right half": [0.5, 0, 1, 1],
  "lower half": [0, 0.5, 1, 1],
  middle: [0.25, 0.25, 0.75, 0.75],
};

export async function inpaint(page: Page, place: HTMLElement): Promise<void> {
  const { model } = page;
  const { height, width } = model.layout;
  const [below, paint] = [make("canvas"), make("canvas", { width, height, "aria-label": "What is painted is filled in" })];
  const brush = make("input", { type: "range", min: 1, max: Math.round(width / 4), value: Math.round(width / 10) });
  const label = classChoice(model);
  const results = make("div", { class: "pictures" });
  const context = paint.getContext("2d", { willReadFrequently: true })!;
  context.fillStyle = "#e53935";
  let picture: Picture;
  let seed = 1;

  function take(found: Picture): void {
    picture = found;
    show(below, found);
    context.clearRect(0, 0, width, height);
    results.replaceChildren();
  }

  function stroke(event: PointerEvent): void {
    if (!event.buttons) return;
    const box = paint.getBoundingClientRect();
    const [x, y] = [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
    context.beginPath();
    context.arc(x, y, brush.valueAsNumber, 0, 2 * Math.PI);
    context.fill();
  }

  function erase([left, top, right, bottom]: [number, number, number, number]): void {
    context.fillRect(left * width, top * height, (right - left) * width, (bottom - top) * height);
  }

  async function fill(): Promise<string> {
    const painted = context.getImageData(0, 0, width, height).data;
    const mask = Float32Array.from({ length: height * width }, (_, pixel) => (painted[4 * pixel + 3] > 127 ? 0 : 1));
    if (mask.every((known) => known === 1)) return "Paint over a part of the picture first, or press one of the buttons.";
    if (mask.every((known) => known === 0)) return "Leave a part of the picture; without one, draw it in the first tab.";
    const started = performance.now();
    const found = await model.inpaint(picture, mask, COUNT, seed++, 1, Number(label.value));
    results.replaceChildren(...found.pictures.map((one, index) => canvasOf(one, `Filled in, ${index + 1}`)));
    return `${COUNT} in ${((performance.now() - started) / 1000).toFixed(1)} s.`;
  }

  paint.addEventListener("pointerdown", (event) => {
    paint.setPointerCapture(event.pointerId);
    stroke(event);
  });
  paint.addEventListener("pointermove", stroke);
  const parts = Object.entries(PARTS).map(([name, part]) => make("button", { click: () => erase(part) }, `Erase the ${name}`));
  place.append(
    dropZone("Picture: drop one here, or", "image/*", (file) => attempt(async () => take(await fromFile(file, model)))),
    make(
      "div",
      { class: "controls" },
      make("button", { click: () => attempt(fill, "Filling in.") }, "Fill in"),
      ...parts,
      make("button", { click: () => take(picture) }, "Clear"),
      labelled("Brush", brush),
      ...(model.about.classes.length ? [labelled("Class", label)] : []),
    ),
    make(
      "div",
      { class: "columns" },
      make("figure", {}, make("div", { class: "stack" }, below, paint), make("figcaption", {}, "Paint over what is to be filled in")),
      results,
    ),
  );
  take(await chosenPicture(page));
}
