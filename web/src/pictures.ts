// Pictures on canvases, and from files.

import type { Model, Picture } from "./model";

const MOST_PIXELS = 25_000_000;

/** A canvas with this picture, one pixel of it a pixel of the canvas. */
export function canvasOf(picture: Picture, label = ""): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  show(canvas, picture);
  if (label) {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
  }
  return canvas;
}

export function show(canvas: HTMLCanvasElement, { data, channels, height, width }: Picture): void {
  canvas.width = width;
  canvas.height = height;
  const pixels = new Uint8ClampedArray(4 * height * width).fill(255);
  for (let pixel = 0; pixel < height * width; pixel++)
    for (let channel = 0; channel < 3; channel++)
      pixels[4 * pixel + channel] = Math.round(255 * data[Math.min(channel, channels - 1) * height * width + pixel]);
  canvas.getContext("2d")!.putImageData(new ImageData(pixels, width, height), 0, 0);
}

/** A picture of the model's size: scaled to cover it and cropped at the centre, over white. */
export async function fromFile(file: Blob, model: Model): Promise<Picture> {
  const url = URL.createObjectURL(file);
  try {
    const image = new Image();
    const loaded = new Promise<void>((resolve, reject) => {
      image.onload = () => resolve();
      image.onerror = () => reject(new Error("Expected a picture such as a PNG or JPEG, got a file that is none; choose another one."));
    });
    image.src = url;
    await loaded;
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    if (!width || !height) throw new Error("Expected a picture of a size in pixels, got one without; choose a PNG or JPEG.");
    if (width * height > MOST_PIXELS)
      throw new Error(`Expected a picture of at most ${MOST_PIXELS / 1e6} megapixels, got ${width}x${height}; make it smaller.`);
    return covering(image, width, height, model);
  } finally {
    URL.revokeObjectURL(url);
  }
}

function covering(image: HTMLImageElement, width: number, height: number, model: Model): Picture {
  const own = model.layout;
  const canvas = document.createElement("canvas");
  canvas.width = own.width;
  canvas.height = own.height;
  const context = canvas.getContext("2d")!;
  context.fillStyle = "white";
  context.fillRect(0, 0, own.width, own.height);
  context.imageSmoothingQuality = "high";
  const scale = Math.max(own.width / width, own.height / height);
  const [w, h] = [width * scale, height * scale];
  context.drawImage(image, (own.width - w) / 2, (own.height - h) / 2, w, h);
  const rgba = context.getImageData(0, 0, own.width, own.height).data;
  const pixels = own.width * own.height;
  const data = new Float32Array(own.channels * pixels);
  for (let pixel = 0; pixel < pixels; pixel++) {
    const [red, green, blue] = [0, 1, 2].map((channel) => rgba[4 * pixel + channel] / 255);
    if (own.channels === 1) data[pixel] = 0.299 * red + 0.587 * green + 0.114 * blue;
    else [red, green, blue].forEach((value, channel) => (data[channel * pixels + pixel] = value));
  }
  return { data, channels: own.channels, height: own.height, width: own.width };
}

/** Peak signal-to-noise ratio in dB of pictures of one size, cut off to [0, 1]. */
export function psnr(one: Picture, other: Picture): number {
  const cut = (value: number) => Math.min(1, Math.max(0, value));
  const sum = one.data.reduce((total, value, place) => total + (cut(value) - other.data[place]) ** 2, 0);
  return -10 * Math.log10(Math.max(sum / one.data.length, 1e-10));
}
