"""Which version is served: the gate, the aliases, the ledger of decisions."""
