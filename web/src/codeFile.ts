// `.ddn` files, as `discrete_distribution_network/codec/bitstream.py` describes them: codes <-> bytes.

import type { EntropyModel } from "./entropyModel";
import { packRange, unpackRange } from "./rangeCoding";

export interface Layout {
  channels: number;
  height: number;
  width: number;
  levels: { codes: number; size: number }[];
  fingerprints: string[]; // of uniformly packed files
  rangeFingerprints: string[]; // of range-coded ones
}

/** Images of a file. */
export interface CodeFile {
  images: number;
  codes: (image: number) => number[]; // fewer than all where it was written with the first levels only
}

const [UNIFORM, RANGE] = [0, 1]; // methods

export class CodeFileError extends Error {}

const MAGIC = [0x89, 0x44, 0x44, 0x4e];
const VERSION = 1;
const START = 7; // magic, version, length of the header
const MOST_LEVELS = 4096;

/**
 * The file of images.
 *
 * @param images codes of each, of as many levels each
 * @param entropy the model by which they are range coded; null to pack them uniformly
 */
export function write(layout: Layout, images: number[][], entropy: EntropyModel | null): Uint8Array {
  const levels = levelsOf(layout, images[0].length);
  const sizes = sizesOf(levels);
  const parts = images.map((codes) => (entropy ? packRange(entropy, codes, levels.length) : pack(codes, sizes)));
  const payload = [...(entropy ? parts.flatMap((part) => varint(part.length)) : []), ...parts.flatMap((part) => [...part])];
  const runs: { size: number; codes: number; length: number }[] = [];
  for (const { codes, size } of levels) {
    const last = runs.at(-1);
    if (last && last.codes === codes && last.size === size) last.length++;
    else runs.push({ size, codes, length: 1 });
  }
  const fingerprint = (entropy ? layout.rangeFingerprints : layout.fingerprints)[0];
  const head = [entropy ? RANGE : UNIFORM, ...fromHex(fingerprint), layout.channels, ...little(layout.height, 2), ...little(layout.width, 2)];
  head.push(...varint(images.length), ...varint(1), ...varint(runs.length));
  for (const run of runs) head.push(...varint(run.length), ...varint(run.size), ...varint(run.codes));
  head.push(...varint(payload.length), ...little(crc32(payload), 4));
  const start = [...MAGIC, VERSION, ...little(START + head.length + 4, 2), ...head];
  return Uint8Array.from([...start, ...little(crc32(start), 4), ...payload]);
}

/** @param openEntropyModel of the same model, for files that are range coded */
export async function read(data: Uint8Array, layout: Layout, openEntropyModel: () => Promise<EntropyModel | null>): Promise<CodeFile> {
  if (MAGIC.some((byte, place) => data[place] !== byte)) throw new CodeFileError("Expected a .ddn file, got another kind of file; choose one that this page or `ddn encode` wrote.");
  const length = data.length < START ? Infinity : data[5] + 256 * data[6];
  if (data.length < length) throw new CodeFileError(`Expected a header of ${length} bytes, got ${data.length}; the file is truncated, copy it again.`);
  const head = data.subarray(0, length);
  if (crc32(head.subarray(0, -4)) !== number(head.subarray(-4))) throw damaged("a header with a valid checksum", "other bytes");
  if (data[4] > VERSION) throw new CodeFileError(`Expected a file of version ${VERSION}, got version ${data[4]}; use a newer page.`);
  const scan = new Scan(head.subarray(START, -4));
  const method = scan.take(1)[0];
  const fingerprint = [...scan.take(8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const channels = scan.take(1)[0];
  const height = number(scan.take(2));
  const width = number(scan.take(2));
  const [images, tiles, runs] = [scan.varint(), scan.varint(), scan.varint()];
  const levels: Layout["levels"] = [];
  for (let run = 0; run < runs; run++) {
    const [count, size, codes] = [scan.varint(), scan.varint(), scan.varint()];
    if (levels.length + count > MOST_LEVELS) throw damaged(`at most ${MOST_LEVELS} levels`, "more");
    for (let level = 0; level < count; level++) levels.push({ codes, size });
  }
  const bytes = scan.varint();
  const check = number(scan.take(4));
  const payload = data.subarray(length);
  if (payload.length !== bytes) throw new CodeFileError(`Expected ${bytes} bytes of codes, got ${payload.length}; the file is ${payload.length < bytes ? "truncated" : "extended"}, copy it again.`);
  if (crc32(payload) !== check) throw damaged("codes with a valid checksum", "other bytes");
  if (method !== UNIFORM && method !== RANGE) throw damaged(`method ${UNIFORM} or ${RANGE}`, String(method));
  const known = method === RANGE ? layout.rangeFingerprints : layout.fingerprints;
  if (!known.length) throw new CodeFileError("Expected a uniformly packed file, since this model was exported without its entropy model, got a range-coded one; decode it with `ddn decode`.");
  if (!known.includes(fingerprint)) throw new CodeFileError(`Expected codes of the model ${known[0]}, got those of ${fingerprint}; choose the model that wrote the file.`);
  if (tiles !== 1 || height !== layout.height || width !== layout.width || channels !== layout.channels)
    throw new CodeFileError(`Expected images of ${layout.width}x${layout.height}, got ${width}x${height} in ${tiles} tiles; decode the file with \`ddn decode\`.`);
  const own = layout.levels.slice(0, levels.length);
  if (!images || !levels.length || levels.some(({ codes, size }, level) => own[level]?.codes !== codes || own[level].size !== size)) throw damaged("levels of this model", "others");
  const entropy = method === RANGE ? await openEntropyModel() : null;
  return entropy ? rangeCoded(payload, images, levels.length, entropy) : packed(payload, images, sizesOf(levels));
}

function packed(payload: Uint8Array, images: number, sizes: number[]): CodeFile {
  const each = packedBytes(sizes);
  if (each * images !== payload.length) throw damaged(`${images} times ${each} bytes of codes`, String(payload.length));
  return { images, codes: (image) => unpack(payload.subarray(image * each, (image + 1) * each), sizes) };
}

/** The payload begins with the number of bytes of each image. */
function rangeCoded(payload: Uint8Array, images: number, levels: number, entropy: EntropyModel): CodeFile {
  const scan = new Scan(payload);
  const starts = [0];
  for (let image = 0; image < images; image++) starts.push(starts[image] + scan.varint());
  const parts = scan.rest();
  if (parts.length !== starts[images]) throw damaged(`${starts[images]} bytes of codes`, String(parts.length));
  const codes = (image: number) => {
    const found = unpackRange(entropy, parts.subarray(starts[image], starts[image + 1]), levels);
    if (!found) throw damaged("bytes that the range coder wrote", "others");
    return found;
  };
  return { images, codes };
}

function damaged(expected: string, found: string): CodeFileError {
  return new CodeFileError(`Expected ${expected}, got ${found}; the file is damaged, copy it again.`);
}

/** The first levels, that have so many codes. */
export function levelsOf({ levels }: Layout, codes: number): Layout["levels"] {
  let count = 0;
  for (let sum = 0; sum < codes; count++) sum += levels[count].codes;
  return levels.slice(0, count);
}

/** K of each code. */
export function sizesOf(levels: Layout["levels"]): number[] {
  return levels.flatMap(({ codes, size }) => Array<number>(codes).fill(size));
}

/** Bytes of codes as one number in mixed radix. */
export function packedBytes(sizes: number[]): number {
  const most = product(sizes) - 1n;
  return most === 0n ? 0 : Math.ceil(most.toString(2).length / 8);
}

export function pack(codes: number[], sizes: number[]): Uint8Array {
  let value = 0n;
  codes.forEach((code, place) => (value = value * BigInt(sizes[place]) + BigInt(code)));
  const bytes = new Uint8Array(packedBytes(sizes));
  for (let place = bytes.length - 1; place >= 0; place--, value >>= 8n) bytes[place] = Number(value & 255n);
  return bytes;
}

export function unpack(data: Uint8Array, sizes: number[]): number[] {
  let value = data.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  if (value >= product(sizes)) throw damaged("packed codes below the product of all K", "a larger number");
  const codes = Array<number>(sizes.length);
  for (let place = sizes.length - 1; place >= 0; place--) {
    const size = BigInt(sizes[place]);
    codes[place] = Number(value % size);
    value /= size;
  }
  return codes;
}

function product(sizes: number[]): bigint {
  return sizes.reduce((result, size) => result * BigInt(size), 1n);
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value >>> 0;
});

export function crc32(bytes: Iterable<number>): number {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

function little(value: number, bytes: number): number[] {
  return Array.from({ length: bytes }, (_, place) => Math.floor(value / 256 ** place) % 256);
}

function number(bytes: Uint8Array): number {
  return bytes.reduceRight((sum, byte) => 256 * sum + byte, 0);
}

function fromHex(text: string): number[] {
  return (text.match(/../g) ?? []).map((byte) => parseInt(byte, 16));
}

function varint(value: number): number[] {
  const bytes = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return [...bytes, value];
}

class Scan {
  private place = 0;

  constructor(private readonly data: Uint8Array) {}

  take(count: number): Uint8Array {
    this.place += count;
    if (this.place > this.data.length) throw damaged(`a field of at most ${this.data.length - this.place + count} bytes`, String(count));
    return this.data.subarray(this.place - count, this.place);
  }

  rest(): Uint8Array {
    return this.data.subarray(this.place);
  }

  varint(): number {
    let value = 0;
    for (let index = 0; index < 7; index++) {
      const byte = this.take(1)[0];
      value += (byte & 127) * 128 ** index;
      if (byte < 128) return value;
    }
    throw damaged("a number of at most 7 bytes", "a longer one");
  }
}
