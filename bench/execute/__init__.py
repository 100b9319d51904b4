"""Training stacks of cells: one here, or many in processes or as jobs of a cluster."""
