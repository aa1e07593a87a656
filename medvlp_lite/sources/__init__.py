"""Real data sets in their official layouts, all yielding Study. One module per set; ``registry`` finds and fetches them."""
