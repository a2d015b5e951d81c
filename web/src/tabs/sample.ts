// Images drawn by the prior.

import { attempt, labelled, make } from "../elements";
import type { Page } from "../main";
import type { Sampled } from "../model";
import { canvasOf } from "../pictures";
import { classChoice, saveCodes } from "./shared";

const [COUNT, AT_ONCE] = [16, 4];

export async function sample(page: Page, place: HTMLElement): Promise<string> {
  const { model } = page;
  const seed = make("input", { type: "number", value: 1, min: 0, step: 1 });
  const temperature = make("input", { type: "range", min: 0, max: 2, step: 0.1, value: 1 });
  const label = classChoice(model);
  const pictures = make("div", { class: "pictures" });
  let drawn: Sampled = { codes: [], pictures: [] };

  async function draw(): Promise<string> {
    const started = performance.now();
    const known = Array.from({ length: AT_ONCE }, () => Array<number>(model.codes).fill(-1));
    const found: Sampled = { codes: [], pictures: [] };
    drawn = found;
    for (let first = 0; first < COUNT; first += AT_ONCE) {
      const part = await model.sample(known, seed.valueAsNumber || 0, temperature.valueAsNumber, Number(label.value), first);
      found.codes.push(...part.codes);
      found.pictures.push(...part.pictures);
      const buttons = part.pictures.map((picture, index) =>
        make("button", { click: () => choose(first + index), "aria-pressed": "false" }, canvasOf(picture, `Sample ${first + index + 1}`)),
      );
      if (first) pictures.append(...buttons);
      else pictures.replaceChildren(...buttons);
      if (!first) choose(0);
    }
    return `${COUNT} samples in ${((performance.now() - started) / 1000).toFixed(1)} s. The marked one is used in the other tabs.`;
  }

  function choose(index: number): void {
    page.chosen = { codes: drawn.codes[index], picture: drawn.pictures[index] };
    [...pictures.children].forEach((button, other) => button.setAttribute("aria-pressed", String(other === index)));
  }

  const again = () => attempt(draw, "Drawing.");
  const next = () => {
    seed.valueAsNumber = (seed.valueAsNumber || 0) + 1;
    return again();
  };
  seed.addEventListener("change", again);
  temperature.addEventListener("change", again);
  label.addEventListener("change", again);
  place.append(
    make(
      "div",
      { class: "controls" },
      make("button", { click: next }, "Draw others"),
      labelled("Seed", seed),
      labelled("Temperature", temperature),
      ...(model.about.classes.length ? [labelled("Class", label)] : []),
      make("button", { click: () => page.chosen && page.open("walk", page.chosen.codes) }, "Walk to the marked one"),
      make("button", { click: () => attempt(() => saveCodes(model, drawn.codes, "samples.ddn")) }, "Save all as .ddn"),
    ),
    pictures,
  );
  return draw();
}
