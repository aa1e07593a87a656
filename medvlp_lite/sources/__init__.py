"""Real data sets in their official layouts, all yielding Study; ``registry`` finds and fetches them."""
