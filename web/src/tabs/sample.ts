// Images drawn by the prior.

import { write } from "../codeFile";
import { attempt, download, labelled, make } from "../elements";
import type { Page } from "../main";
import type { Sampled } from "../model";
import { canvasOf } from "../pictures";
import { classChoice } from "./shared";

const COUNT = 16;

export async function sample(page: Page, place: HTMLElement): Promise<void> {
  const { model } = page;
  const seed = make("input", { type: "number", value: 1, min: 0, step: 1 });
  const temperature = make("input", { type: "range", min: 0, max: 2, step: 0.1, value: 1 });
  const label = classChoice(model);
  const pictures = make("div", { class: "pictures" });
  let drawn: Sampled = { codes: [], pictures: [] };

  async function draw(): Promise<string> {
    const started = performance.now();
    const known = Array.from({ length: COUNT }, () => Array<number>(model.codes).fill(-1));
    drawn = await model.sample(known, seed.valueAsNumber || 0, temperature.valueAsNumber, Number(label.value));
    const buttons = drawn.pictures.map((picture, index) =>
      make("button", { click: () => choose(index), "aria-pressed": "false" }, canvasOf(picture, `Sample ${index + 1}`)),
    );
    pictures.replaceChildren(...buttons);
    choose(0);
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
      make("button", { click: () => download(write(model.layout, drawn.codes), "samples.ddn") }, "Save all as .ddn"),
    ),
    pictures,
  );
  await draw();
}
