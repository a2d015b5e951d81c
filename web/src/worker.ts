// Runs the graphs of one model, apart from the page, so that the page answers meanwhile.

import * as ort from "onnxruntime-web/wasm";
import type { Answer, Order } from "./model";

ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

let runtime: Promise<void> | null = null;
const weights = new Map<string, Promise<Uint8Array>>();
const sessions = new Map<string, Promise<ort.InferenceSession>>();

async function bytes(url: string): Promise<Uint8Array> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`Expected ${url}, got ${response.status}; export the model again.`);
  return new Uint8Array(await response.arrayBuffer());
}

/** A file that `compress.js` has compressed; a server may have told the browser to decompress it already. */
async function gunzipped(url: string): Promise<Uint8Array> {
  const data = await bytes(url);
  if (data[0] !== 0x1f || data[1] !== 0x8b) return data;
  const stream = new Blob([data as BlobPart]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The session of a graph, made on first use; all graphs of a model share one download of its weights. */
function session(order: Order): Promise<ort.InferenceSession> {
  const url = `${order.folder}/${order.graph}.onnx.gz`;
  if (!sessions.has(url)) sessions.set(url, open(url, order));
  return sessions.get(url)!;
}

async function open(url: string, { folder, weights: path, runtime: binary }: Order): Promise<ort.InferenceSession> {
  if (!weights.has(folder)) weights.set(folder, bytes(`${folder}/${path}`));
  runtime ??= gunzipped(binary).then((data) => {
    ort.env.wasm.wasmBinary = data;
  });
  const [graph, data] = await Promise.all([gunzipped(url), weights.get(folder)!, runtime]);
  // `ddn export` has simplified the graph
  return ort.InferenceSession.create(graph, { graphOptimizationLevel: "disabled", externalData: [{ path, data }] });
}

self.onmessage = async ({ data: order }: MessageEvent<Order>) => {
  try {
    const run = await session(order);
    const feeds = Object.fromEntries(
      Object.entries(order.feeds).map(([name, { data, shape }]) => [
        name,
        data instanceof BigInt64Array ? new ort.Tensor("int64", data, shape) : new ort.Tensor("float32", data, shape),
      ]),
    );
    const found = await run.run(feeds, order.fetches);
    const values = Object.fromEntries(
      Object.entries(found).map(([name, tensor]) => [
        name,
        { data: tensor.data as Float32Array | BigInt64Array, shape: [...tensor.dims] },
      ]),
    );
    self.postMessage({ id: order.id, values } satisfies Answer);
  } catch (error) {
    self.postMessage({ id: order.id, error: error instanceof Error ? error.message : String(error) } satisfies Answer);
  }
};
