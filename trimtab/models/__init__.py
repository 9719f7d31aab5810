"""Models: load and save (Hugging Face folders), tree attention, scoring a TreeBatch."""
