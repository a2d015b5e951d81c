// What several tabs have.

import { write } from "../codeFile";
import { download, make } from "../elements";
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

/** Save the codes of images as a file, as `ddn encode` writes it. */
export async function saveCodes(model: Model, images: number[][], name: string): Promise<string> {
  if (!images[0]?.length) throw new Error("Expected an image, got none; draw or open one first.");
  const data = write(model.layout, images, await model.entropyModel());
  download(data, name);
  return `${name}: ${data.length} bytes.`;
}
