// `.ddn` files, as `discrete_distribution_network/codec/bitstream.py` describes them: codes <-> bytes.

export interface Layout {
  channels: number;
  height: number;
  width: number;
  levels: { codes: number; size: number }[];
  fingerprints: string[];
}

export class CodeFileError extends Error {}

const MAGIC = [0x89, 0x44, 0x44, 0x4e];
const VERSION = 1;
const START = 7; // magic, version, length of the header
const MOST_LEVELS = 4096;

/** The file of images whose codes are given, each with all codes of a model. */
export function write(layout: Layout, images: number[][]): Uint8Array {
  const sizes = sizesOf(layout.levels);
  const payload = images.flatMap((codes) => [...pack(codes, sizes)]);
  const runs: { size: number; codes: number; length: number }[] = [];
  for (const { codes, size } of layout.levels) {
    const last = runs.at(-1);
    if (last && last.codes === codes && last.size === size) last.length++;
    else runs.push({ size, codes, length: 1 });
  }
  const head = [0, ...fromHex(layout.fingerprints[0]), layout.channels, ...little(layout.height, 2), ...little(layout.width, 2)];
  head.push(...varint(images.length), ...varint(1), ...varint(runs.length));
  for (const run of runs) head.push(...varint(run.length), ...varint(run.size), ...varint(run.codes));
  head.push(...varint(payload.length), ...little(crc32(payload), 4));
  const start = [...MAGIC, VERSION, ...little(START + head.length + 4, 2), ...head];
  return Uint8Array.from([...start, ...little(crc32(start), 4), ...payload]);
}

/** The codes of each image of a file; fewer than all where it was written with the first levels only. */
export function read(data: Uint8Array, layout: Layout): number[][] {
  if (MAGIC.some((byte, place) => data[place] !== byte)) throw new CodeFileError("Expected a .ddn file, got another kind of file; choose one that this page or `ddn encode` wrote.");
  const length = data.length < START ? Infinity : data[5] + 256 * data[6];
  if (data.length < length) throw new CodeFileError(`Expected a header of ${length} bytes, got ${data.length}; the file is truncated, copy it again.`);
  const head = data.subarray(0, length);
  if (crc32(head.subarray(0, -4)) !== number(head.subarray(-4))) throw new CodeFileError("Expected a header with a valid checksum, got other bytes; the file is damaged, copy it again.");
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
    if (levels.length + count > MOST_LEVELS) throw new CodeFileError(`Expected at most ${MOST_LEVELS} levels, got more; the file is damaged, copy it again.`);
    for (let level = 0; level < count; level++) levels.push({ codes, size });
  }
  const bytes = scan.varint();
  const check = number(scan.take(4));
  const payload = data.subarray(length);
  if (payload.length !== bytes) throw new CodeFileError(`Expected ${bytes} bytes of codes, got ${payload.length}; the file is ${payload.length < bytes ? "truncated" : "extended"}, copy it again.`);
  if (crc32(payload) !== check) throw new CodeFileError("Expected codes with a valid checksum, got other bytes; the file is damaged, copy it again.");
  if (!layout.fingerprints.includes(fingerprint)) throw new CodeFileError(`Expected codes of the model ${layout.fingerprints[0]}, got those of ${fingerprint}; choose the model that wrote the file.`);
  if (method !== 0) throw new CodeFileError("Expected uniformly packed codes, got range-coded ones; decode them with `ddn decode`, or write them with `ddn encode --uniform`.");
  if (tiles !== 1 || height !== layout.height || width !== layout.width || channels !== layout.channels)
    throw new CodeFileError(`Expected images of ${layout.width}x${layout.height}, got ${width}x${height} in ${tiles} tiles; decode the file with \`ddn decode\`.`);
  const sizes = sizesOf(levels);
  const each = packedBytes(sizes);
  if (levels.length > layout.levels.length || each * images !== bytes) throw new CodeFileError(`Expected ${images} times ${each} bytes of codes, got ${bytes}; the file is damaged, copy it again.`);
  return Array.from({ length: images }, (_, image) => unpack(payload.subarray(image * each, (image + 1) * each), sizes));
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
  if (value >= product(sizes)) throw new CodeFileError("Expected packed codes below the product of all K, got a larger number; the file is damaged, copy it again.");
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
    if (this.place > this.data.length) throw new CodeFileError("Expected a longer header, got fewer fields; the file is damaged, copy it again.");
    return this.data.subarray(this.place - count, this.place);
  }

  varint(): number {
    let value = 0;
    for (let index = 0; index < 7; index++) {
      const byte = this.take(1)[0];
      value += (byte & 127) * 128 ** index;
      if (byte < 128) return value;
    }
    throw new CodeFileError("Expected a number of at most 7 bytes, got a longer one; the file is damaged, copy it again.");
  }
}
