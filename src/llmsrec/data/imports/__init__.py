"""A shop's exports (CSV, TSV, JSON lines, parquet) to the raw layout that `ingest` reads: `llmsrec import`."""
