"""Which configurations of a training fit: each is estimated as a rank of it would run, and what cannot fit is not."""
