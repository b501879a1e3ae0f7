"""What studies are made of: stages that several share, and placements of adapters."""
