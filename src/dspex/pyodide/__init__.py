"""All of Python in a sandbox: Pyodide under Deno, fetched once, started from a snapshot, bounded."""
