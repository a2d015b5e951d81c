import { existsSync, readdirSync } from "node:fs";
import { defineConfig } from "vite";

// the models that `ddn export` has written into public/models
const models = existsSync("public/models") ? readdirSync("public/models").sort() : [];
if (!models.length) throw new Error("expected models in public/models; run: ddn export fashion-mnist -o web/public/models/fashion-mnist");

// the runtime is loaded from the file that `compress.js` writes
const withoutRuntime = {
  name: "without-runtime",
  generateBundle(_, bundle) {
    for (const name of Object.keys(bundle)) if (name.endsWith(".wasm")) delete bundle[name];
  },
};

export default defineConfig({
  base: "./",
  define: { MODELS: JSON.stringify(models) },
  worker: { format: "es", plugins: () => [withoutRuntime] },
  build: { target: "es2022", assetsInlineLimit: 0, chunkSizeWarningLimit: 2000 },
});
