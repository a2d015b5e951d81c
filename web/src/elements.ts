// Making elements, and telling the reader what happens.

type Properties = Record<string, string | number | boolean | ((event: Event) => unknown) | undefined>;

/** An element; functions among its properties listen to the event of that name. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Properties = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else if (value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

export function say(text: string, error = false): void {
  const message = document.getElementById("message")!;
  message.textContent = text;
  message.classList.toggle("error", error);
}

let working: Promise<unknown> = Promise.resolve();

/** Do one thing after the other, and tell its error in a sentence; the page lives on. */
export function attempt(work: () => Promise<unknown>, doing = ""): Promise<void> {
  const next = working.then(async () => {
    if (doing) say(doing);
    try {
      const done = await work();
      say(typeof done === "string" ? done : "");
    } catch (error) {
      say(error instanceof Error ? error.message : String(error), true);
    }
  });
  working = next;
  return next;
}

export function labelled(text: string, input: HTMLElement): HTMLLabelElement {
  return make("label", {}, `${text} `, input);
}

export function download(data: Uint8Array, name: string): void {
  const url = URL.createObjectURL(new Blob([data as BlobPart]));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** A place to drop a file on, with a button to choose one. */
export function dropZone(text: string, accept: string, take: (file: File) => void): HTMLElement {
  const input: HTMLInputElement = make("input", { type: "file", accept });
  input.addEventListener("change", () => input.files?.[0] && take(input.files[0]));
  const zone = make("div", { class: "drop" }, labelled(text, input));
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
  });
  return zone;
}
