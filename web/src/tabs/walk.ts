// The tree of choices: one code after the other, each with the candidates that the prior finds likeliest.

import { attempt, labelled, make } from "../elements";
import type { Page } from "../main";
import type { Candidate } from "../model";
import { canvasOf } from "../pictures";

const LIKELIEST = 16;

export async function walk(page: Page, place: HTMLElement, linked: number[] | null): Promise<void> {
  const { model } = page;
  const inRange = (code: number, index: number) => code >= 0 && code < model.layout.levels[model.place(index).level].size;
  let codes: number[] = [];
  let ahead = (linked ?? []).slice(0, model.codes); // the codes of a link; the way forward
  if (!ahead.every(inRange)) ahead = [];
  let all = false;
  let candidates: Candidate[] = [];

  const image = make("canvas");
  const outline = make("div", { class: "outline" });
  const caption = make("figcaption");
  const finished = make("input", { type: "checkbox", change: () => attempt(showCandidates, "Finishing each.") });
  const list = make("div", { class: "pictures" });
  const back = make("button", { click: () => go(-1) }, "← Back");
  const forward = make("button", { click: () => go(1) }, "Forward →");
  const more = make("button", { click: () => attempt(toggle) }, "Show all");

  async function update(): Promise<void> {
    page.link("walk", codes);
    const done = codes.length === model.codes;
    const now = model.place(Math.min(codes.length, model.codes - 1));
    await showImage(done);
    const [top, left] = [Math.floor(now.patch / now.columns), now.patch % now.columns];
    outline.hidden = done || now.rows * now.columns === 1;
    outline.style.cssText = `top: ${(100 * top) / now.rows}%; left: ${(100 * left) / now.columns}%; height: ${100 / now.rows}%; width: ${100 / now.columns}%`;
    const patch = now.rows * now.columns > 1 ? `, patch ${now.patch + 1} of ${now.rows * now.columns}` : "";
    caption.textContent = done ? `all ${model.codes} codes chosen` : `code ${codes.length + 1} of ${model.codes}: level ${now.level + 1} of ${model.levels}${patch}`;
    back.disabled = !codes.length;
    forward.disabled = done;
    candidates = done ? [] : await model.candidates(codes, codes.length, -1);
    await showCandidates();
  }

  /** The levels that are chosen, and over them the chosen patches of the one that is not yet. */
  async function showImage(done: boolean): Promise<void> {
    const { height, width } = model.layout;
    const context = image.getContext("2d")!;
    image.width = width;
    image.height = height;
    context.fillStyle = "#808080";
    context.fillRect(0, 0, width, height);
    const now = model.place(Math.min(codes.length, model.codes - 1));
    const whole = done ? model.levels : now.level;
    context.imageSmoothingEnabled = whole < model.levels;
    if (whole) context.drawImage(await decoded(codes.slice(0, model.codesOf(whole)), whole), 0, 0, width, height);
    if (done || !now.patch) return;
    const part = canvasOf((await model.decode([codes], now.level + 1))[0]);
    const [h, w] = [part.height / now.rows, part.width / now.columns];
    context.imageSmoothingEnabled = false;
    for (let patch = 0; patch < now.patch; patch++) {
      const [y, x] = [Math.floor(patch / now.columns) * h, (patch % now.columns) * w];
      const [scaleY, scaleX] = [height / part.height, width / part.width];
      context.drawImage(part, x, y, w, h, x * scaleX, y * scaleY, w * scaleX, h * scaleY);
    }
  }

  let kept = { codes: "", picture: image };

  /** The picture of whole levels; the last one is kept, since choices of patches do not change it. */
  async function decoded(own: number[], levels: number): Promise<HTMLCanvasElement> {
    if (kept.codes !== own.join()) kept = { codes: own.join(), picture: canvasOf((await model.decode([own], levels))[0]) };
    return kept.picture;
  }

  async function showCandidates(): Promise<void> {
    const shown = all ? candidates : candidates.slice(0, LIKELIEST);
    let pictures = shown.map((one) => one.picture);
    if (finished.checked && shown.length) {
      const rest = Array<number>(model.codes - codes.length - 1).fill(-1);
      pictures = (await model.sample(shown.map((one) => [...codes, one.code, ...rest]), 1, 1, -1)).pictures;
    }
    const buttons = shown.map((one, index) => {
      const text = `${(100 * one.probability).toFixed(one.probability < 0.1 ? 1 : 0)}%`;
      const title = `Candidate ${one.code}${index < 9 ? `; key ${index + 1}` : ""}`;
      return make("button", { title, click: () => choose(one.code) }, canvasOf(pictures[index], title), text);
    });
    list.replaceChildren(...buttons);
    more.hidden = candidates.length <= LIKELIEST;
    more.textContent = all ? `Show the ${LIKELIEST} likeliest` : `Show all ${candidates.length}`;
  }

  async function toggle(): Promise<void> {
    all = !all;
    await showCandidates();
  }

  function choose(code: number): Promise<void> {
    if (ahead[0] === code) ahead.shift();
    else ahead = [];
    codes.push(code);
    return attempt(update);
  }

  /** One code back, or forward: the one that was chosen before, else the likeliest. */
  function go(step: number): Promise<void> {
    return attempt(async () => {
      if (step < 0 && codes.length) ahead.unshift(codes.pop()!);
      else if (step > 0 && codes.length < model.codes) codes.push(ahead.shift() ?? candidates[0].code);
      await update();
    });
  }

  /** Let the prior choose up to a number of codes. */
  async function draw(count: number): Promise<void> {
    const known = [...codes, ...Array<number>(model.codes - codes.length).fill(-1)];
    const { codes: found } = await model.sample([known], Math.floor(Math.random() * 2 ** 31), 1, -1);
    codes = found[0].slice(0, count);
    ahead = [];
    await update();
  }

  const endOfLevel = () => model.codesOf(model.place(Math.min(codes.length, model.codes - 1)).level + 1);
  const keys = (event: KeyboardEvent) => {
    if (!place.isConnected) return document.removeEventListener("keydown", keys);
    if (event.ctrlKey || event.metaKey || event.altKey || (event.target as HTMLElement).closest("nav, select, input:not([type=checkbox])")) return;
    const digit = Number(event.key);
    if (event.key === "ArrowLeft") void go(-1);
    else if (event.key === "ArrowRight") void go(1);
    else if (digit >= 1 && digit <= 9 && candidates[digit - 1]) void choose(candidates[digit - 1].code);
    else return;
    event.preventDefault();
  };
  document.addEventListener("keydown", keys);

  const end = async () => {
    codes = [...codes, ...ahead];
    ahead = [];
    await update();
  };
  const restart = async () => {
    ahead = [...codes, ...ahead];
    codes = [];
    await update();
  };
  place.append(
    make(
      "div",
      { class: "controls" },
      back,
      forward,
      make("button", { click: () => attempt(() => draw(endOfLevel())) }, "Draw this level"),
      make("button", { click: () => attempt(() => draw(model.codes)) }, "Draw the rest"),
      make("button", { click: () => attempt(restart) }, "To the start"),
      make("button", { click: () => attempt(end) }, "To the end"),
      labelled("Show each finished by the prior", finished),
    ),
    make(
      "div",
      { class: "columns" },
      make(
        "figure",
        {},
        make("div", { class: "stack" }, image, outline),
        caption,
        make("p", {}, "Keys: ← and → go back and forth, 1 to 9 choose. The address of this page holds the codes."),
      ),
      make("div", {}, list, make("div", { class: "controls" }, more)),
    ),
  );
  await update();
}
