// What several tabs have.

import { make } from "../elements";
import type { Page } from "../main";
import type { Model, Picture } from "../model";

/** The choice of a class; -1 for any. */
export function classChoice(model: Model): HTMLSelectElement {
  const options = model.about.classes.map((name, index) => make("option", { value: index }, name));
  return make("select", {}, make("option", { value: -1 }, "any"), ...options);
}

/** The picture to begin with: the marked sample, or one that is drawn. */
export async function chosenPicture(page: Page): Promise<Picture> {
  if (!page.chosen) {
    const { codes, pictures } = await page.model.sample([Array<number>(page.model.codes).fill(-1)], 1, 1, -1);
    page.chosen = { codes: codes[0], picture: pictures[0] };
  }
  return page.chosen.picture;
}
