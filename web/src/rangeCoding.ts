// Codes <-> bytes by range coding: the same bytes as `discrete_distribution_network/codec/range_coding.py`, whose coder is
// the one of the library constriction: words of 32 bits, a state of 64, probabilities of 24.

import { PRECISION, type EntropyModel } from "./entropyModel";

const [WORD, STATE, FRACTION] = [32n, 64n, 24n]; // bits
const WHOLE = 1n << FRACTION;

/** The bytes of the codes of an image. */
export function packRange(model: EntropyModel, codes: number[], levels: number): Uint8Array {
  const encoder = new Encoder();
  let place = 0;
  model.walk(levels, (counts) =>
    counts.map((own) => {
      encoder.encode(codes[place], cumulative(own));
      return codes[place++];
    }),
  );
  return encoder.bytes();
}

/** The inverse of `packRange`; null for bytes that it never writes. */
export function unpackRange(model: EntropyModel, data: Uint8Array, levels: number): number[] | null {
  const [decoder, encoder] = [new Decoder(data), new Encoder()];
  const decode = (counts: number[]) => {
    const sums = cumulative(counts);
    const code = decoder.decode(sums);
    encoder.encode(code, sums);
    return code;
  };
  try {
    const codes = model.walk(levels, (counts) => counts.map(decode));
    const again = encoder.bytes();
    return again.length === data.length && again.every((byte, place) => byte === data[place]) ? codes : null;
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
}

/** Sums of the probabilities before each node in units of 2^-24, each node having at least one; the last is 2^24. */
function cumulative(counts: number[]): bigint[] {
  const left = WHOLE - BigInt(counts.length);
  const sums = [0n];
  let sum = 0n;
  for (const [index, count] of counts.entries()) {
    sum += BigInt(count);
    sums.push(((sum * left) >> BigInt(PRECISION)) + BigInt(index + 1));
  }
  return sums;
}

class Encoder {
  private written = 0n; // all that is certain, and the lower end of the interval, as one number
  private words = 0n; // of it beyond the last 64 bits
  private width = (1n << STATE) - 1n;

  encode(code: number, sums: bigint[]): void {
    const unit = this.width >> FRACTION;
    this.written += unit * sums[code];
    this.width = unit * (sums[code + 1] - sums[code]);
    while (this.width < 1n << WORD) {
      this.written <<= WORD;
      this.width <<= WORD;
      this.words++;
    }
  }

  /** The shortest bytes of a number in the interval, of the last word on. */
  bytes(): Uint8Array {
    const total = WORD * this.words + STATE;
    const up = (1n << WORD) - 1n;
    const last = (this.written + up) >> WORD; // the first number in the interval of whole words
    const [lower, upper] = [this.written, this.written + this.width];
    if (((last + 1n) << WORD) <= upper)
      for (let bits = WORD * this.words; bits < total - WORD; bits += 8n) {
        const cut = last >> (total - WORD - bits);
        for (const number of [cut, cut + 1n]) {
          const value = number << (total - bits);
          if (number < 1n << bits && lower <= value && value < upper) return bytesOf(number, bits);
        }
      }
    return bytesOf(last, total - WORD);
  }
}

class Decoder {
  private place = 0;
  private width = (1n << STATE) - 1n;
  private point: bigint; // above the lower end of the interval

  constructor(private readonly data: Uint8Array) {
    this.point = (this.word() << WORD) | this.word();
  }

  decode(sums: bigint[]): number {
    const unit = this.width >> FRACTION;
    const found = this.point / unit;
    if (found >= WHOLE) throw new RangeError("beyond the interval");
    let [code, end] = [0, sums.length - 1];
    while (code + 1 < end) {
      const middle = (code + end) >> 1;
      if (sums[middle] <= found) code = middle;
      else end = middle;
    }
    this.point -= unit * sums[code];
    this.width = unit * (sums[code + 1] - sums[code]);
    while (this.width < 1n << WORD) {
      this.point = (this.point << WORD) | this.word();
      this.width <<= WORD;
    }
    return code;
  }

  /** The next one; zero beyond the end. */
  private word(): bigint {
    let value = 0n;
    for (let byte = 0; byte < 4; byte++) value = (value << 8n) | BigInt(this.data[this.place++] ?? 0);
    return value;
  }
}

function bytesOf(number: bigint, bits: bigint): Uint8Array {
  const bytes = new Uint8Array(Number(bits / 8n));
  for (let place = bytes.length - 1; place >= 0; place--, number >>= 8n) bytes[place] = Number(number & 255n);
  return bytes;
}
