"""What is compared, as rows and totals: one file for each kind of thing."""
