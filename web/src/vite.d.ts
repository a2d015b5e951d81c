/// <reference types="vite/client" />

/** Names of the folders of models in public/models. */
declare const MODELS: string[];
