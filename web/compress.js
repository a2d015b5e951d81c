// Writes what the page downloads compressed, whether or not a server compresses it: the runtime, and the graphs of the models.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const files = readdirSync("public/models", { recursive: true })
  .filter((name) => name.endsWith(".onnx"))
  .map((name) => [`public/models/${name}`, `public/models/${name}.gz`]);
files.push(["node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm", "public/runtime.wasm.gz"]);
for (const [from, to] of files) writeFileSync(to, gzipSync(readFileSync(from), { level: 9 }));
