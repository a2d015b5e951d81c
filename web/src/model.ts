// A model that `ddn export` has written: its uses, as functions of plain arrays.

import type { Layout } from "./codeFile";
import { EntropyModel } from "./entropyModel";

export interface Value {
  data: Float32Array | BigInt64Array;
  shape: number[];
}

export interface Order {
  id: number;
  runtime: string; // the address of onnxruntime
  folder: string; // of the model
  weights: string;
  graph: string;
  feeds: Record<string, Value>;
  fetches: string[];
}

export interface Answer {
  id: number;
  values?: Record<string, Value>;
  error?: string;
}

/** The content of model.json. */
interface About {
  weights: string;
  channels: number;
  image_size: [number, number];
  codebook_sizes: number[];
  code_shapes: number[][];
  level_sizes: [number, number][];
  temperatures: { fidelity: number[]; diversity: number[] };
  classes: string[];
  fingerprints: string[];
  entropy_model: { weights: string; fingerprints: string[] } | null;
  graphs: Record<string, { inputs: string[]; outputs: string[] }>;
}

/** Pixels in [0, 1], channel after channel, row by row. */
export interface Picture {
  data: Float32Array;
  channels: number;
  height: number;
  width: number;
}

/** A place among an image's codes. */
export interface Place {
  level: number;
  patch: number;
  rows: number;
  columns: number;
}

export interface Candidate {
  code: number;
  probability: number;
  picture: Picture;
}

export interface Sampled {
  codes: number[][];
  pictures: Picture[];
}

const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
const waiting = new Map<number, { resolve: (values: Record<string, Value>) => void; reject: (error: Error) => void }>();
let orders = 0;

worker.onmessage = ({ data: answer }: MessageEvent<Answer>) => {
  const own = waiting.get(answer.id);
  waiting.delete(answer.id);
  if (answer.values) own?.resolve(answer.values);
  else own?.reject(new Error(answer.error));
};

export class Model {
  readonly codes: number; // of an image
  readonly layout: Layout;

  private constructor(
    readonly name: string,
    readonly folder: string,
    readonly about: About,
  ) {
    const levels = about.code_shapes.map((shape, level) => ({
      codes: shape.reduce((product, side) => product * side, 1),
      size: about.codebook_sizes[level],
    }));
    this.codes = levels.reduce((sum, level) => sum + level.codes, 0);
    const [height, width] = about.image_size;
    this.layout = { channels: about.channels, height, width, levels, fingerprints: about.fingerprints, rangeFingerprints: about.entropy_model?.fingerprints ?? [] };
  }

  static async open(name: string): Promise<Model> {
    const folder = new URL(`models/${name}`, document.baseURI).href;
    const response = await fetch(`${folder}/model.json`);
    if (!response.ok) throw new Error(`Expected a model in ${folder}, got ${response.status}; export it again.`);
    return new Model(name, folder, await response.json());
  }

  private opened: EntropyModel | null = null;

  /** The model by which files are range coded; null if there is none. */
  async entropyModel(): Promise<EntropyModel | null> {
    const own = this.about.entropy_model;
    if (!own) return null;
    if (!this.opened) {
      const response = await fetch(`${this.folder}/${own.weights}`);
      if (!response.ok) throw new Error(`Expected ${own.weights} in ${this.folder}, got ${response.status}; export the model again.`);
      const grids = this.layout.levels.map((_, level) => this.grid(level));
      this.opened = EntropyModel.of(await response.arrayBuffer(), this.layout, grids);
    }
    return this.opened;
  }

  get levels(): number {
    return this.about.code_shapes.length;
  }

  /** Codes of the first levels. */
  codesOf(levels: number): number {
    return this.layout.levels.slice(0, levels).reduce((sum, level) => sum + level.codes, 0);
  }

  /** Rows and columns of a level's codes. */
  private grid(level: number): [number, number] {
    const [rows = 1, columns = 1] = this.about.code_shapes[level];
    return [rows, columns];
  }

  /** The level of a code, and its patch. */
  place(index: number): Place {
    let level = 0;
    while (index >= this.layout.levels[level].codes) index -= this.layout.levels[level++].codes;
    const [rows, columns] = this.grid(level);
    return { level, patch: index, rows, columns };
  }

  async encode(pictures: Picture[]): Promise<number[][]> {
    const { codes } = await this.run("encode", { images: this.images(pictures) }, ["codes"]);
    return rows(codes);
  }

  /** The images of codes, those of the first levels at their own size. */
  async decode(codes: number[][], levels = this.levels): Promise<Picture[]> {
    const output = levels === this.levels ? "image" : `level_${levels - 1}`;
    const filled = codes.map((own) => [...own, ...Array<number>(this.codes - own.length).fill(0)].map((code) => Math.max(code, 0)));
    const found = await this.run("decode", { codes: integers(filled) }, [output]);
    return pictures(found[output]);
  }

  /**
   * Images whose codes the prior draws, but for those that are given.
   *
   * @param known codes of each image; -1 where one is drawn
   * @param temperature factor of the model's own temperatures
   * @param first images of this seed that are passed over
   */
  async sample(known: number[][], seed: number, temperature: number, label: number, first = 0): Promise<Sampled> {
    const feeds = { noise: this.noise(known.length, seed, first), known: integers(known), ...this.shared(temperature) };
    const { codes, image } = await this.run("sample", { ...feeds, ...this.labels(known.length, label) }, ["codes", "image"]);
    return { codes: rows(codes), pictures: pictures(image) };
  }

  /** Images that are as the given one where the mask is 1. */
  async inpaint(picture: Picture, mask: Float32Array, count: number, seed: number, temperature: number, label: number): Promise<Sampled> {
    const shape = [count, 1, picture.height, picture.width];
    const feeds = {
      images: this.images(Array<Picture>(count).fill(picture)),
      mask: { data: concatenated(Array<Float32Array>(count).fill(mask)), shape },
      noise: this.noise(count, seed),
      ...this.shared(temperature),
    };
    const { codes, image } = await this.run("inpaint", { ...feeds, ...this.labels(count, label) }, ["codes", "image"]);
    return { codes: rows(codes), pictures: pictures(image) };
  }

  /** All K candidates of the code at this index, given those before it; the likeliest first. */
  async candidates(codes: number[], index: number, label: number): Promise<Candidate[]> {
    const { level, patch } = this.place(index);
    const names = ["features", "residual", "weight", "logits"].map((part) => `${part}_${level}`);
    const filled = [...codes.slice(0, index), ...Array<number>(this.codes - index).fill(0)];
    const found = await this.run("candidates", { codes: integers([filled]), ...this.labels(1, label) }, names);
    const [features, residual, weight, logits] = names.map((name) => found[name]);
    const [, dim, height, width] = features.shape;
    const [size, channels] = weight.shape;
    const pixels = height * width;
    const f = (features.data as Float32Array).subarray(patch * dim * pixels, (patch + 1) * dim * pixels);
    const r = (residual.data as Float32Array).subarray(patch * channels * pixels, (patch + 1) * channels * pixels);
    const probabilities = softmax((logits.data as Float32Array).subarray(patch * size, (patch + 1) * size));
    const drawn = Array.from(probabilities, (probability, code) => {
      const data = Float32Array.from(r);
      for (let channel = 0; channel < channels; channel++)
        for (let d = 0; d < dim; d++) {
          const w = weight.data[(code * channels + channel) * dim + d] as number;
          for (let pixel = 0; pixel < pixels; pixel++) data[channel * pixels + pixel] += w * f[d * pixels + pixel];
        }
      return { code, probability, picture: { data, channels, height, width } };
    });
    return drawn.sort((one, other) => other.probability - one.probability);
  }

  private run(graph: string, feeds: Record<string, Value>, fetches: string[]): Promise<Record<string, Value>> {
    const runtime = new URL("runtime.wasm.gz", document.baseURI).href;
    const order: Order = { id: orders++, runtime, folder: this.folder, weights: this.about.weights, graph, feeds, fetches };
    return new Promise((resolve, reject) => {
      waiting.set(order.id, { resolve, reject });
      worker.postMessage(order);
    });
  }

  private images(pictures: Picture[]): Value {
    const { channels, height, width } = pictures[0];
    return { data: concatenated(pictures.map((one) => one.data)), shape: [pictures.length, channels, height, width] };
  }

  private shared(temperature: number): Record<string, Value> {
    const own = this.about.temperatures.fidelity.map((value) => value * temperature);
    return { temperatures: { data: Float32Array.from(own), shape: [this.levels] } };
  }

  private labels(count: number, label: number): Record<string, Value> {
    if (!this.about.classes.length) return {};
    return { labels: { data: new BigInt64Array(count).fill(BigInt(label)), shape: [count] } };
  }

  private noise(count: number, seed: number, first = 0): Value {
    const next = random(seed);
    for (let passed = 0; passed < first * this.codes; passed++) next();
    return { data: Float32Array.from({ length: count * this.codes }, next), shape: [count, this.codes] };
  }
}

/** Uniform numbers in [0, 1), always the same for a seed (mulberry32). */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let value = Math.imul(state ^ (state >>> 15), state | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return ((value ^ (value >>> 14)) >>> 8) / 2 ** 24;
  };
}

function integers(rows: number[][]): Value {
  return { data: BigInt64Array.from(rows.flat().map(BigInt)), shape: [rows.length, rows[0].length] };
}

function rows({ data, shape }: Value): number[][] {
  return Array.from({ length: shape[0] }, (_, row) => Array.from(data.slice(row * shape[1], (row + 1) * shape[1]), Number));
}

function pictures({ data, shape }: Value): Picture[] {
  const [count, channels, height, width] = shape;
  const size = channels * height * width;
  return Array.from({ length: count }, (_, index) => ({
    data: (data as Float32Array).slice(index * size, (index + 1) * size),
    channels,
    height,
    width,
  }));
}

function concatenated(parts: Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let place = 0;
  for (const part of parts) {
    all.set(part, place);
    place += part.length;
  }
  return all;
}

function softmax(logits: Float32Array): Float32Array {
  const most = logits.reduce((one, other) => Math.max(one, other));
  const powers = logits.map((value) => Math.exp(value - most));
  const sum = powers.reduce((one, other) => one + other);
  return powers.map((value) => value / sum);
}
