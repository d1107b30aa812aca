"""What tests of ranks and workers share."""
