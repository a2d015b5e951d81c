// A picture and its reconstruction from the codes of the first levels; `.ddn` files.

import { levelsOf, packedBytes, read, sizesOf } from "../codeFile";
import { attempt, dropZone, labelled, make } from "../elements";
import type { Page } from "../main";
import type { Picture } from "../model";
import { fromFile, psnr, show } from "../pictures";
import { chosenPicture, saveCodes } from "./shared";

const MOST_BYTES = 1 << 20;

export async function reconstruct(page: Page, place: HTMLElement): Promise<void> {
  const { model } = page;
  const levels = make("input", { type: "range", min: 1, max: model.levels, value: model.levels });
  const [before, after] = [make("canvas"), make("canvas")];
  const [original, caption] = [make("figcaption"), make("figcaption")];
  let picture: Picture | null = null;
  let codes: number[] = [];

  async function take(found: Picture): Promise<void> {
    picture = found;
    [codes] = await model.encode([found]);
    page.chosen = { codes, picture: found };
    levels.valueAsNumber = model.levels;
    await update();
  }

  async function update(): Promise<void> {
    const count = Math.min(levels.valueAsNumber, levelsOf(model.layout, codes.length).length);
    const [found] = await model.decode([codes.slice(0, model.codesOf(count))], count);
    show(after, found);
    const bytes = packedBytes(sizesOf(model.layout.levels.slice(0, count)));
    const full = found.height === picture?.height && found.width === picture.width;
    const quality = picture && full ? `, ${psnr(found, picture).toFixed(1)} dB` : "";
    caption.textContent = `${count} of ${model.levels} levels: ${bytes} bytes, ${found.width}x${found.height}${quality}`;
    if (picture) show(before, picture);
    original.textContent = picture ? `original, ${picture.data.length} bytes` : "no original: opened from codes";
  }

  async function openCodes(file: File): Promise<string> {
    if (file.size > MOST_BYTES) throw new Error(`Expected a .ddn file of at most ${MOST_BYTES >> 20} MiB, got ${(file.size / 2 ** 20).toFixed(1)} MiB; open a smaller one.`);
    const found = await read(new Uint8Array(await file.arrayBuffer()), model.layout, () => model.entropyModel());
    codes = found.codes(0);
    picture = null;
    before.width = before.height = 0;
    levels.valueAsNumber = levelsOf(model.layout, codes.length).length;
    await update();
    return found.images > 1 ? `The first of ${found.images} images.` : "";
  }

  levels.addEventListener("input", () => attempt(update));
  place.append(
    dropZone("Picture: drop one here, or", "image/*", (file) => attempt(async () => take(await fromFile(file, model)), "Encoding.")),
    dropZone("Codes: drop a .ddn file here, or", ".ddn", (file) => attempt(() => openCodes(file))),
    make(
      "div",
      { class: "controls" },
      labelled("Levels", levels),
      make("button", { click: () => attempt(() => saveCodes(model, [codes], "image.ddn")) }, "Save as .ddn"),
      make("button", { click: () => page.open("walk", codes) }, "Walk to it"),
    ),
    make("div", { class: "columns" }, make("figure", {}, before, original), make("figure", {}, after, caption)),
  );
  await take(await chosenPicture(page));
}
