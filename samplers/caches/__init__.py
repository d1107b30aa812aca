"""What is stored of earlier steps, so that a step need not be computed whole: policies decide, mechanisms store."""
