// The page: one model, one tab, and the picture that is passed from tab to tab.

import { attempt, make } from "./elements";
import { Model, type Picture } from "./model";
import { inpaint } from "./tabs/inpaint";
import { reconstruct } from "./tabs/reconstruct";
import { sample } from "./tabs/sample";
import { walk } from "./tabs/walk";

export interface Chosen {
  codes: number[];
  picture: Picture;
}

export interface Page {
  model: Model;
  chosen: Chosen | null; // of the samples, or a file
  open: (tab: string, codes?: number[]) => void;
  link: (tab: string, codes: number[]) => void;
}

/** Fills the place of a tab. */
export type Tab = (page: Page, place: HTMLElement, codes: number[] | null) => Promise<unknown>;

const TABS: Record<string, { title: string; tab: Tab }> = {
  sample: { title: "Sample", tab: sample },
  walk: { title: "Walk the tree", tab: walk },
  reconstruct: { title: "Reconstruct", tab: reconstruct },
  inpaint: { title: "Inpaint", tab: inpaint },
};

const models = document.getElementById("model") as HTMLSelectElement;
const place = document.querySelector("main")!;
const tabs = document.querySelector("nav")!;

/** Tab, model and codes of a link: #tab/model/code.code... */
function fromLink(): { tab: string; name: string; codes: number[] | null } {
  const [tab, name, codes] = decodeURIComponent(location.hash.slice(1)).split("/");
  return {
    tab: tab in TABS ? tab : "sample",
    name: MODELS.includes(name) ? name : MODELS[0],
    codes: codes ? codes.split(".").map((code) => parseInt(code, 36)) : null,
  };
}

const page: Page = {
  model: undefined as unknown as Model,
  chosen: null,
  open: (tab, codes) => {
    page.link(tab, codes ?? []);
    void show();
  },
  link: (tab, codes) => history.replaceState(null, "", `#${tab}/${page.model.name}${codes.length ? `/${codes.map((code) => code.toString(36)).join(".")}` : ""}`),
};

async function show(): Promise<void> {
  const { tab, name, codes } = fromLink();
  models.value = name;
  for (const button of tabs.querySelectorAll("button")) {
    const selected = button.id === `tab-${tab}`;
    button.setAttribute("aria-selected", String(selected));
    button.tabIndex = selected ? 0 : -1;
  }
  const own = make("section", { role: "tabpanel", "aria-labelledby": `tab-${tab}` });
  place.replaceChildren(own);
  await attempt(async () => {
    if (page.model?.name !== name) {
      page.model = await Model.open(name);
      page.chosen = null;
    }
    return TABS[tab].tab(page, own, codes);
  }, "Loading the model.");
}

function makeTabs(): void {
  for (const [name, { title }] of Object.entries(TABS))
    tabs.append(make("button", { role: "tab", id: `tab-${name}`, click: () => page.open(name) }, title));
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const all = [...tabs.querySelectorAll("button")];
    const now = all.indexOf(document.activeElement as HTMLButtonElement);
    if (!step || now < 0) return;
    event.preventDefault();
    event.stopPropagation();
    const next = all[(now + step + all.length) % all.length];
    next.focus();
    next.click();
  });
}

models.append(...MODELS.map((name) => make("option", { value: name }, name)));
models.addEventListener("change", () => {
  location.hash = `#${fromLink().tab}/${models.value}`;
});
window.addEventListener("hashchange", () => void show());
makeTabs();
void show();
