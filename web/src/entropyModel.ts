// The probability of codes given the codes before them, in fixed-point arithmetic: the same numbers as
// `discrete_distribution_network/prior/entropy_model.py`, on every machine. Exact in float64, in any order.

import type { Layout } from "./codeFile";

/** Counts sum to 2^16. */
export const PRECISION = 16;

const [WEIGHT_UNIT, ACTIVATION_UNIT, SCORE_UNIT] = [2 ** -12, 2 ** -8, 2 ** -5];
const [MAX_ACTIVATION, MAX_SCORE_GAP] = [2 ** 7, 16];
const EXP = Array.from({ length: MAX_SCORE_GAP / SCORE_UNIT + 1 }, (_, step) => Math.round(2 ** 24 * Math.exp(-step * SCORE_UNIT)));

/** A linear map of the values at a place, or of its 3x3 neighbours. */
interface Linear {
  weight: Float64Array; // outputs, inputs, rows, columns
  bias: Float64Array;
}

interface Level {
  rows: number;
  columns: number;
  size: number; // K
  place: Float64Array; // dim, rows, columns
  nodes: Float64Array; // K, dim
  first: Linear;
  second: Linear;
  score: Linear;
  rest: Linear;
}

/** Vectors of all places of a grid: place after place. */
interface Grid {
  values: Float64Array;
  rows: number;
  columns: number;
}

export class EntropyModel {
  private constructor(private readonly levels: Level[]) {}

  /** The model in a safetensors file of 16-bit integers. */
  static of(file: ArrayBuffer, layout: Layout, grids: [number, number][]): EntropyModel {
    const start = 8 + Number(new DataView(file).getBigUint64(0, true));
    const header: Record<string, { data_offsets: [number, number] }> = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, start - 8)));
    const tensor = (name: string): Float64Array => {
      const [from, to] = header[name].data_offsets;
      return Float64Array.from(new Int16Array(file.slice(start + from, start + to)), (value) => value * WEIGHT_UNIT);
    };
    const linear = (name: string): Linear => ({ weight: tensor(`${name}.weight`), bias: tensor(`${name}.bias`) });
    return new EntropyModel(
      layout.levels.map(({ size }, level) => {
        const [name, [rows, columns]] = [`levels.${level}`, grids[level]];
        const [first, second, score, rest] = ["first", "second", "score", "rest"].map((part) => linear(`${name}.${part}`));
        return { rows, columns, size, place: tensor(`${name}.place`), nodes: tensor(`${name}.nodes.weight`), first, second, score, rest };
      }),
    );
  }

  /**
   * Visit the levels in order; `choose` is given the counts of the nodes at each place, and gives the codes there.
   *
   * @returns all codes
   */
  walk(levels: number, choose: (counts: number[][]) => number[]): number[] {
    const dim = this.levels[0].nodes.length / this.levels[0].size;
    let state: Grid = { values: new Float64Array(dim), rows: 1, columns: 1 };
    const found: number[] = [];
    for (const level of this.levels.slice(0, levels)) {
      state = resized(state, dim, level);
      const hidden = hiddenOf(level, state, dim);
      const codes = choose(hidden.map((own) => countsOf(linearly(level.score, own))));
      hidden.forEach((own, where) =>
        linearly(level.rest, own).forEach((rest, d) => {
          const place = where * dim + d;
          state.values[place] = quantized(state.values[place] + level.nodes[codes[where] * dim + d] + rest);
        }),
      );
      found.push(...codes);
    }
    return found;
  }
}

/** Values at the places of a level's grid, from the nearest place of their own. */
function resized({ values, rows, columns }: Grid, dim: number, grid: { rows: number; columns: number }): Grid {
  const result = new Float64Array(dim * grid.rows * grid.columns);
  for (let row = 0; row < grid.rows; row++)
    for (let column = 0; column < grid.columns; column++) {
      const from = Math.floor((row * rows) / grid.rows) * columns + Math.floor((column * columns) / grid.columns);
      result.set(values.subarray(from * dim, (from + 1) * dim), (row * grid.columns + column) * dim);
    }
  return { values: result, rows: grid.rows, columns: grid.columns };
}

/** The hidden vector of each place. */
function hiddenOf(level: Level, state: Grid, dim: number): Float64Array[] {
  const { rows, columns } = level;
  const reach = level.first.weight.length === level.first.bias.length * dim ? 0 : 1; // a kernel of 1x1, or of 3x3
  const side = 2 * reach + 1;
  return Array.from({ length: rows * columns }, (_, place) => {
    const window = new Float64Array(dim * side * side); // zero beyond the border
    for (let y = 0; y < side; y++)
      for (let x = 0; x < side; x++) {
        const [row, column] = [Math.floor(place / columns) + y - reach, (place % columns) + x - reach];
        if (row < 0 || row >= rows || column < 0 || column >= columns) continue;
        const from = row * columns + column;
        for (let d = 0; d < dim; d++) window[(d * side + y) * side + x] = state.values[from * dim + d] + level.place[d * rows * columns + from];
      }
    return positive(linearly(level.second, positive(linearly(level.first, window))));
  });
}

function linearly({ weight, bias }: Linear, input: Float64Array): Float64Array {
  return bias.map((own, output) => {
    let sum = own;
    for (let index = 0, from = output * input.length; index < input.length; index++) sum += weight[from + index] * input[index];
    return sum;
  });
}

function positive(values: Float64Array): Float64Array {
  return values.map((value) => quantized(Math.max(value, 0)));
}

/** An activation rounded down to a multiple of its unit, and clipped. */
function quantized(value: number): number {
  return Math.min(Math.max(Math.floor(value / ACTIVATION_UNIT) * ACTIVATION_UNIT, -MAX_ACTIVATION), MAX_ACTIVATION);
}

/** Probabilities of nodes in units of 2^-16, each at least 1. */
function countsOf(values: Float64Array): number[] {
  const scores = Array.from(values, (value) => Math.floor(value / SCORE_UNIT));
  const most = Math.max(...scores);
  const weights = scores.map((score) => EXP[Math.min(most - score, EXP.length - 1)]);
  const sum = weights.reduce((one, other) => one + other);
  const left = 2 ** PRECISION - weights.length;
  const counts = weights.map((weight) => 1 + Math.floor((weight * left) / sum));
  counts[scores.indexOf(most)] += 2 ** PRECISION - counts.reduce((one, other) => one + other);
  return counts;
}
