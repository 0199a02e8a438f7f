"""Reports: what people see. Reads result dictionaries and files only, never a model."""
