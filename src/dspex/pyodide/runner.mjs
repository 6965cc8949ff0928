// Runs Python in Pyodide for one conversation: a line of JSON comes in for each block of code, and one goes out.
//
// Nothing is fetched: every file is below the directory that is given, which is all that may be read, and that
// only until the conversation begins. What code in here can do is what Deno permits this process: nothing.
// The process outside trusts no line of this one.
//
//   deno run ... runner.mjs start <directory> <snapshot> <inside.py>
//   deno run ... runner.mjs snapshot <directory> <where to write it> <inside.py>

import { createRequire } from "node:module";

const [task, directory, snapshot, inside] = Deno.args;
const { stdin, stdout, permissions, readFileSync, readTextFileSync, writeFileSync } = Deno;

globalThis.require = createRequire(import.meta.url); // Pyodide takes this process for Node
globalThis.__dirname = directory;
const { loadPyodide } = await import(`file://${encodeURI(directory)}/pyodide.mjs`);

// What code is likely to import, so that it is in the snapshot and costs nothing.
const WARM = `
import asyncio, bisect, calendar, collections, copy, csv, dataclasses, datetime, decimal, enum, fractions, functools
import heapq, io, itertools, json, math, operator, random, re, statistics, string, sys, textwrap, time, traceback
import types, typing, unicodedata, pyodide.code
`;

const options = {
  indexURL: `${directory}/`,
  env: { HOME: "/home/user", LANG: "C.UTF-8", USER: "user" },
  packageCacheDir: "/nowhere",
  jsglobals: Object.create(null),
};

if (task === "snapshot") {
  const python = await loadPyodide({ ...options, _makeSnapshot: true });
  python.runPython(WARM);
  python.runPython(`
import os, sys, types
os.environ.pop("_", None)
_module = types.ModuleType("_dspex_inside")
exec(compile(${JSON.stringify(readTextFileSync(inside))}, "<sandbox>", "exec"), _module.__dict__)
sys.modules["_dspex_inside"] = _module
del os, types, sys, _module
`);
  writeFileSync(snapshot, python.makeMemorySnapshot());
  Deno.exit(0);
}

const python = await loadPyodide({ ...options, _loadSnapshot: readFileSync(snapshot) });
const nothing = { write: (bytes) => bytes.length, isatty: false };
python.setStdout(nothing);
python.setStderr(nothing);
python.setStdin({ stdin: () => null });

const utf8 = new TextEncoder();
let pending = new Uint8Array(0);

function* pieces() {
  const block = new Uint8Array(1 << 16);
  for (;;) {
    const end = pending.indexOf(10);
    if (end >= 0) {
      const rest = pending.slice(end + 1);
      yield pending.subarray(0, end);
      pending = rest;
      return;
    }
    if (pending.length) yield pending;
    pending = new Uint8Array(0);
    const count = stdin.readSync(block);
    if (count === null) throw new Error("the other side has gone");
    pending = block.slice(0, count);
  }
}

function readLine() {
  const decoder = new TextDecoder();
  const texts = [];
  for (const piece of pieces()) texts.push(decoder.decode(piece, { stream: true }));
  return texts.join("") + decoder.decode();
}

function writeLine(text) {
  const bytes = utf8.encode(text + "\n");
  for (let done = 0; done < bytes.length; ) done += stdout.writeSync(bytes.subarray(done));
}

const exit = Deno.exit;
const answer = python.pyimport("_dspex_inside").start((line) => {
  writeLine(line);
  return readLine();
});

// From here on the process may do nothing but compute and talk to the one that started it.
permissions.revokeSync({ name: "read", path: directory });
globalThis.addEventListener("unhandledrejection", (event) => event.preventDefault());
for (const name of ["Deno", "process", "require", "__dirname", "Worker", "fetch", "WebSocket", "Buffer"]) {
  delete globalThis[name];
}
writeLine('{"ready": true}');

for (;;) {
  let line;
  try {
    line = readLine();
  } catch {
    exit(0);
  }
  writeLine(await answer(line));
}
