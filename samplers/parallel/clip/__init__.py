"""One clip on several cards: ranks, processes that sample it together, each with a share of every forward pass."""
