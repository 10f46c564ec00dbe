"""Work that several processes share and that survives being killed."""
